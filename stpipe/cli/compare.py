"""`stpipe compare`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from stpipe.config.errors import ConfigError

if TYPE_CHECKING:
    from stpipe.reports.run_record import RunRecord

GATE_EXIT = 4
HELP = """stpipe compare: is one run better than another, and is that more than luck?

Usage: stpipe compare A B [C ...] [flags]

Each of A, B, C is the directory of a run; every run is compared with A. Scores of the same queries are tested in pairs: mean difference
with its interval (bootstrap), p values (bootstrap, permutation, adjusted for the number of tests by Holm's method), effect size, and
the queries that gained and lost most. Then come the settings and versions that differ. Prints Markdown.

Examples
  stpipe compare outputs/mnrl_all_nli/base outputs/mnrl_all_nli/larger-batch
  stpipe compare outputs/mnrl_all_nli/* --html comparison.html
  stpipe compare before after --metric ndcg@10 --max-drop 0.005      exit code 4 if clearly worse by more than 0.005
  stpipe compare before after --max-drop 0.01 --strict --json out.json

Flags
  --system NAME        which result of each evaluation: after (default), before, bm25, base
  --metric NAME        a metric with scores of each query, instead of each evaluator's primary one
  --common             compare the queries that both runs have, where their sets or judgements differ
  --max-drop D         exit code 4 when a metric is worse by more than D and the interval of the difference leaves out zero
  --strict             with --max-drop: whatever the interval says, and also when a run cannot be compared
  --resamples N        of bootstrap and permutation (default 10000)
  --confidence C       of the intervals (default 0.95)
  --seed N             of the resampling (default 12)
  --json FILE, --markdown FILE, --html FILE   write the comparison there, too
"""


def run(arguments: list[str]) -> int:
    """Returns the exit code."""
    args = _flags().parse_args(arguments)
    if args.help:
        print(HELP, end="")
        return 0
    if len(args.runs) < 2:
        raise ConfigError(f"stpipe compare needs at least two runs; found {len(args.runs)}: stpipe compare A B [C ...]")
    _check(args)
    from stpipe.gate.comparison import Question, compare
    from stpipe.gate.comparison_text import comparison_markdown
    from stpipe.gate.paired_test import Resampling

    question = Question(
        args.system, args.metric, args.common, args.max_drop, args.strict, Resampling(args.resamples, args.confidence, args.seed)
    )
    document = compare(_read(args.runs), question)
    text = comparison_markdown(document)
    if args.html:
        from stpipe.gate.comparison_page import comparison_page

        _write(args.html, comparison_page(document))
    if args.json:
        _write(args.json, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    if args.markdown:
        _write(args.markdown, text)
    print(text, end="")
    return GATE_EXIT if document["failures"] else 0


def _flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="stpipe compare", add_help=False, allow_abbrev=False)
    flags.add_argument("runs", nargs="*", metavar="RUN")
    flags.add_argument("--system", default="after")
    flags.add_argument("--metric")
    flags.add_argument("--common", action="store_true")
    flags.add_argument("--max-drop", type=float)
    flags.add_argument("--strict", action="store_true")
    flags.add_argument("--resamples", type=int, default=10_000)
    flags.add_argument("--confidence", type=float, default=0.95)
    flags.add_argument("--seed", type=int, default=12)
    for name in ("--json", "--markdown", "--html"):
        flags.add_argument(name, type=Path)
    flags.add_argument("--help", "-h", action="store_true")
    return flags


def _check(args: argparse.Namespace) -> None:
    """What the flags say must make sense before any file is read."""
    problems = [
        (args.resamples >= 100, f"--resamples {args.resamples}: expected at least 100"),
        (0.5 <= args.confidence < 1, f"--confidence {args.confidence:g}: expected a share from 0.5 to below 1, such as 0.95"),
        (args.max_drop is None or args.max_drop >= 0, f"--max-drop {args.max_drop}: expected 0 or more"),
        (args.max_drop is not None or not args.strict, "--strict says how --max-drop is judged; give --max-drop too"),
    ]
    found = [message for good, message in problems if not good]
    if found:
        raise ConfigError("; ".join(found))


def _read(directories: list[str]) -> dict[str, RunRecord]:
    """The runs by the names of their directories, which the user has just typed; by whole paths where two have the same name."""
    from stpipe.reports.run_record import read_run

    paths = [Path(name) for name in directories]
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("stpipe compare: the same run is named twice; each run is compared with the first one")
    last = [path.resolve().name for path in paths]
    return {name if last.count(name) == 1 else str(path): read_run(path) for name, path in zip(last, paths, strict=True)}


def _write(path: Path, text: str) -> None:
    from stpipe.reports.atomic import write_text

    if not path.parent.is_dir():
        raise ConfigError(f"'{path}' cannot be written: there is no directory '{path.parent}'")
    write_text(path, text)
