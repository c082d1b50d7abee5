"""Trials as tasks of SLURM arrays, or on Ray inside one job."""
