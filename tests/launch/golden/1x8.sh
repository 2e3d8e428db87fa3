#!/usr/bin/env bash
#SBATCH --job-name=first
#SBATCH --chdir=/data/me
#SBATCH --output=/data/me/outputs/slurm/first-0a1b2c3d/%j.log
#SBATCH --open-mode=append
#SBATCH --partition=gpu
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
# Written by stpipe. Exit code 75: the run was asked to leave, has saved a checkpoint, and goes on when it is queued again.
set -e

# A signal is for the processes of the run; this shell waits until they have saved.
trap : TERM USR1 USR2 HUP
unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}

arguments=(train +recipe=mnrl_all_nli run.dir=outputs/mnrl_all_nli/first trainer.resume=auto backend=ddp trainer.batch_size=64)

code=0
srun --kill-on-bad-exit=0 --cpus-per-task=8 /data/me/.venv/bin/python -m stpipe "${arguments[@]}" || code=$?
if [ "$code" -eq 75 ] && [[ "$(scontrol show job --oneliner "$SLURM_JOB_ID")" == *" JobState=RUNNING "* ]]; then
    echo "stpipe: preempted with a checkpoint; queueing job $SLURM_JOB_ID again" >&2
    scontrol requeue "$SLURM_JOB_ID" && sleep 60 # SLURM ends this script
fi
exit "$code"
