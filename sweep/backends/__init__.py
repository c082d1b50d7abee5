"""One package for each kind of place that runs trials."""
