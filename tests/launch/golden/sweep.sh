#!/usr/bin/env bash
#SBATCH --job-name=sweep-0a1b2c3d
#SBATCH --chdir=/data/me
#SBATCH --output="/data/me/my runs/slurm=1/100%%/%A_%a.log"
#SBATCH --open-mode=append
#SBATCH --array=0-2%2
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --mem=4000
#SBATCH --no-requeue
# Written by stpipe. Exit code 75: the run was asked to leave, has saved a checkpoint, and goes on when it is queued again.
set -e

# A signal is for the processes of the run; this shell waits until they have saved.
trap : TERM USR1 USR2 HUP
unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT

case "$SLURM_ARRAY_TASK_ID" in
0) arguments=(train +recipe=mnrl_all_nli 'run.dir='"'"'outputs/it'"'"''"'"'s 0'"'"'' 'dataset.prompts.query='"'"'a $HOME: 0'"'"'') ;;
1) arguments=(train +recipe=mnrl_all_nli 'run.dir='"'"'outputs/it'"'"''"'"'s 1'"'"'' 'dataset.prompts.query='"'"'a $HOME: 1'"'"'') ;;
2) arguments=(train +recipe=mnrl_all_nli 'run.dir='"'"'outputs/it'"'"''"'"'s 2'"'"'' 'dataset.prompts.query='"'"'a $HOME: 2'"'"'') ;;
esac

code=0
srun --kill-on-bad-exit=0 /data/me/.venv/bin/python -m stpipe "${arguments[@]}" || code=$?
exit "$code"
