"""The training loop of one trial, and what it computes on."""
