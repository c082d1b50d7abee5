"""SLURM: submit, poll, requeue and cancel jobs."""
