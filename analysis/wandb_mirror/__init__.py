"""The W&B mirror of a store."""
