"""Ray clusters: start, attach to, watch and stop them, and submit jobs."""
