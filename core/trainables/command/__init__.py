"""A trial that is a command: an existing script, run unchanged."""
