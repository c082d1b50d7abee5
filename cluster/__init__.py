"""Machines and schedulers: Ray clusters and SLURM."""
