"""`stpipe prepare`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpipe.cli.arguments import FLAGS_HELP, parser, run_composed

if TYPE_CHECKING:
    from stpipe.config.load import Loaded

HELP = f"""stpipe prepare: read, check, tokenise and cache the data; no accelerator, no weights. `train` finds the cache.

Usage: stpipe prepare [overrides and flags], with the overrides that `train` will get

Examples
  stpipe prepare +recipe=mnrl_all_nli dataset.num_proc=8
  stpipe prepare +recipe=dense_quickstart +profile=offline
{FLAGS_HELP}"""


def run(arguments: list[str]) -> int:
    """Returns the exit code."""
    args = parser("prepare").parse_intermixed_args(arguments)
    if args.help:
        print(HELP, end="")
        return 0

    def job(loaded: Loaded) -> int:
        from stpipe.pipeline.prepare import run_prepare

        return run_prepare(loaded)

    return run_composed(args, job)
