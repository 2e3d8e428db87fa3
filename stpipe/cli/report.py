"""`stpipe report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from stpipe.config.errors import ConfigError

HELP = """stpipe report: write report.html and report.json of a run anew, from the files in its directory alone.

Usage: stpipe report RUN [RUN ...]

RUN is the directory of a run, in whatever state it is: finished, failed, still training. No model is loaded and nothing is
computed but intervals and figures, so the same files give the same bytes. The page is one file that works from disk.

Examples
  stpipe report outputs/dense_quickstart/dense-1f2e3d4c
  stpipe report outputs/mnrl_all_nli/*
"""


def run(arguments: list[str]) -> int:
    """Returns the exit code."""
    flags = argparse.ArgumentParser(prog="stpipe report", add_help=False, allow_abbrev=False)
    flags.add_argument("runs", nargs="*", metavar="RUN")
    flags.add_argument("--help", "-h", action="store_true")
    args = flags.parse_args(arguments)
    if args.help:
        print(HELP, end="")
        return 0
    if not args.runs:
        raise ConfigError(
            "RUN is missing: stpipe report RUN [RUN ...]. Each is the directory of a run (run.dir), as `stpipe train` printed it"
        )
    from stpipe.reports.report import write_report

    for name in args.runs:
        page, _ = write_report(Path(name))
        print(page)
    return 0
