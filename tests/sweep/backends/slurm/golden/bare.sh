#!/bin/bash

# Parameters
#SBATCH --comment='/shared/home/a/läufe mit platz/sweep/jobs/0001'
#SBATCH --cpus-per-task=1
#SBATCH --job-name='my sweep'
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output='/shared/home/a/läufe mit platz/sweep/jobs/0001/%j_0_log.out'
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=60
#SBATCH --wckey=submitit

# setup
export SWEEP_JOB_STARTED_AT=$(date +%s)

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output '/shared/home/a/läufe mit platz/sweep/jobs/0001/%j_%t_log.out' --cpus-per-task=1 /venv/bin/python -u -m mixsweep.sweep.backends.slurm.job_entry array '/shared/home/a/läufe mit platz/sweep' 0001
