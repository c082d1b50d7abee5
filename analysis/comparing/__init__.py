"""Two sweeps compared, trial by trial and value by value."""
