"""`stpipe train`."""

from __future__ import annotations

from stpipe.cli.arguments import FLAGS_HELP, parser, run_composing
from stpipe.launch.launch import Launch

HELP = f"""stpipe train: compose, validate, prepare data, train, save, evaluate, write card and report.

Usage: stpipe train [overrides and flags]

Examples
  stpipe train +recipe=dense_quickstart +profile=offline        embedded data and weights, a few minutes on two cores
  stpipe train +recipe=mnrl_all_nli --dry-run                   what it would do, in numbers
  stpipe train +recipe=mnrl_all_nli +profile=smoke              the same recipe in seconds
  stpipe train model=minilm dataset.train=pairs.jsonl loss=mnrl your own data (columns anchor and positive)
  stpipe train --from outputs/custom/my-run trainer.seed=7      repeat a run, with one change
  stpipe train +recipe=cosent_stsb trainer.resume=auto          continue it where it stopped
  stpipe train +recipe=cosent_stsb optimizer.lr=1e-5,2e-5 -m    two runs
  stpipe train +recipe=mnrl_all_nli backend.num_processes=2     two processes on this machine
  torchrun --nproc-per-node 4 -m stpipe train +recipe=mnrl_all_nli backend=ddp
{FLAGS_HELP}  --dry-run stops after the plan.
"""


def run(arguments: list[str]) -> int:
    """Returns the exit code."""
    args = parser("train", dry_run=True).parse_intermixed_args(arguments)
    if args.help:
        print(HELP, end="")
        return 0

    with Launch() as launch:
        return run_composing(args, lambda compose: launch.train(compose, dry_run=args.dry_run))
