"""`stpipe fetch`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stpipe.cli.arguments import FLAGS_HELP, parser, run_composed
from stpipe.config.errors import ConfigError, Problem

if TYPE_CHECKING:
    from stpipe.config.load import Loaded

HELP = f"""stpipe fetch: download every asset that a configuration names, so that the run needs no network.

Usage: stpipe fetch [overrides and flags], with the overrides that `train` will get

Models, data sets, teachers, guides, documents to mine from and the collections of evaluators go into the Hub caches (HF_HOME), or
with --to into a folder that can be carried to another machine. What is there already is not fetched again; a fetch that was stopped
goes on with the file that it was at. Afterwards `stpipe train ... offline=true` runs without a network.

Examples
  stpipe fetch +recipe=mnrl_all_nli                      into the caches of this user
  stpipe fetch +recipe=mnrl_all_nli --dry-run            what would be fetched, with sizes
  stpipe fetch +recipe=mnrl_all_nli --to mirror          into mirror/; then: HF_HOME=mirror stpipe train +recipe=mnrl_all_nli offline=true
  stpipe fetch +recipe=mnrl_all_nli offline=true         is all there? exit 2 names what is not
{FLAGS_HELP}  --dry-run fetches nothing. --to DIR: a folder in the place of HF_HOME.
"""
#: Folders inside HF_HOME that the Hub libraries use, and the variables that name them. Where the login token lies is not changed.
CACHES = {"HF_HUB_CACHE": "hub", "HF_DATASETS_CACHE": "datasets", "HF_XET_CACHE": "xet"}


def run(arguments: list[str]) -> int:
    """Returns the exit code."""
    flags = parser("fetch", dry_run=True)
    flags.add_argument("--to", metavar="DIR")
    args = flags.parse_intermixed_args(arguments)
    if args.help:
        print(HELP, end="")
        return 0
    if args.to is not None:
        use_folder(Path(args.to).expanduser())

    def job(loaded: Loaded) -> int:
        from stpipe.pipeline.fetch import run_fetch

        return run_fetch(loaded, dry_run=args.dry_run)

    return run_composed(args, job)


def use_folder(folder: Path) -> None:
    """Make a folder the place of the Hub caches of this process; the libraries read the variables once, when they are imported."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(Problem("--to", f"{folder} is a file; name a folder"))
    for variable, inside in CACHES.items():
        os.environ[variable] = str(folder.absolute() / inside)
