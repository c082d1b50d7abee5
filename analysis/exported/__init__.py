"""Tables that `sweep export` wrote, read as sweeps."""
