"""`stpipe train`."""

from __future__ import annotations

from collections.abc import Sequence

from stpipe.cli.arguments import FLAGS_HELP, STAGE_NAMES, parser, run_composing
from stpipe.launch.launch import Launch

HELP = f"""stpipe train: compose, validate, prepare data, train, save, evaluate, write card and report.

Usage: stpipe train [overrides and flags]

Examples
  stpipe train +recipe=dense_quickstart +profile=offline        embedded data and weights, a few minutes on two cores
  stpipe train +recipe=mnrl_all_nli --dry-run                   what it would do, in numbers
  stpipe train +recipe=mnrl_all_nli +profile=smoke              the same recipe in seconds
  stpipe train model=minilm dataset.train=pairs.jsonl loss=mnrl your own data (columns anchor and positive)
  stpipe train --from outputs/custom/my-run trainer.seed=7      repeat a run, with one change
  stpipe train --from outputs/custom/my-run trainer.resume=auto do what is left of it, in its directory
  stpipe train --from outputs/custom/my-run --stage evaluate    run one stage of it again
  stpipe train +recipe=cosent_stsb trainer.resume=auto          continue it where it stopped
  stpipe train +recipe=cosent_stsb optimizer.lr=1e-5,2e-5 -m    two runs
  stpipe train +recipe=mnrl_all_nli backend.num_processes=2     two processes on this machine
  torchrun --nproc-per-node 4 -m stpipe train +recipe=mnrl_all_nli backend=ddp
{FLAGS_HELP}
Flags of train
  --dry-run      print the plan of every job: stages, what is cached, memory, time; touches no file and no network
  --stage NAME   run one stage of a run: {", ".join(STAGE_NAMES)}

Signals: SIGTERM and SIGUSR1 save a checkpoint within trainer.grace_period and end with exit code 75 (start me again); SIGINT ends
with 130, a second one at once.
Exit codes: 0 done, 1 failed in training, 2 configuration, 3 data, 5 saved, but a later stage failed, 75 preempted, 130 interrupted.
"""


def going_on(overrides: Sequence[str], stage: str | None) -> list[str]:
    """The overrides, with one that goes on with the run where one stage of it is asked for."""
    given = any(text.lstrip("+").startswith("trainer.resume=") for text in overrides)
    return [*overrides] if stage is None or given else [*overrides, "trainer.resume=auto"]


def run(arguments: list[str]) -> int:
    """Returns the exit code."""
    args = parser("train", dry_run=True).parse_intermixed_args(arguments)
    if args.help:
        print(HELP, end="")
        return 0

    args.overrides = going_on(args.overrides, args.stage)
    with Launch() as launch:
        return run_composing(args, lambda compose: launch.train(compose, dry_run=args.dry_run, stage=args.stage))
