#!/bin/bash

# Parameters
#SBATCH --account=dept_vision
#SBATCH --array=0-499%20
#SBATCH --comment='/shared/home/a/läufe mit platz/sweep/jobs/0001'
#SBATCH --constraint='a100|h100'
#SBATCH --cpus-per-task=4
#SBATCH --exclude='node[03-04]'
#SBATCH --exclusive
#SBATCH --gpus-per-node=1
#SBATCH --job-name='my sweep'
#SBATCH --mail-type=END,FAIL
#SBATCH --mem=16G
#SBATCH --nice=100
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output='/shared/home/a/läufe mit platz/sweep/jobs/0001/%A_%a_0_log.out'
#SBATCH --partition=gpu-long,gpu-short
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=240
#SBATCH --wckey=submitit

# setup
export SWEEP_JOB_STARTED_AT=$(date +%s)
module load cuda/12.4
source "$HOME/my envs/torch/bin/activate"
export WANDB_MODE=offline
export NOTE='it'"'"'s 100 %'
. '/shared/home/a/läufe mit platz/sweep/jobs/0001/secret-1.sh'  # WANDB_API_KEY, which looks like a secret

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output '/shared/home/a/läufe mit platz/sweep/jobs/0001/%A_%a_%t_log.out' --cpus-per-task=4 /venv/bin/python -u -m mixsweep.sweep.backends.slurm.job_entry array '/shared/home/a/läufe mit platz/sweep' 0001
