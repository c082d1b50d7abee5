"""Train one trial, or one group of ranks, and record it."""
