#!/bin/bash

# Parameters
#SBATCH --array=0-2%3
#SBATCH --comment='/shared/home/a/läufe mit platz/sweep/jobs/0001'
#SBATCH --cpus-per-task=2
#SBATCH --gres=gpu:rtx2080:1
#SBATCH --job-name='my sweep'
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output='/shared/home/a/läufe mit platz/sweep/jobs/0001/%A_%a_0_log.out'
#SBATCH --requeue
#SBATCH --signal=USR2@10
#SBATCH --time=1
#SBATCH --wckey=submitit

# setup
export SWEEP_JOB_STARTED_AT=$(date +%s)

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output '/shared/home/a/läufe mit platz/sweep/jobs/0001/%A_%a_%t_log.out' --cpus-per-task=2 apptainer exec --nv /images/torch.sif python -u -m mixsweep.sweep.backends.slurm.job_entry array '/shared/home/a/läufe mit platz/sweep' 0001
