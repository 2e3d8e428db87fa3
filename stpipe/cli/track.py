"""`stpipe track`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from stpipe.config.errors import ConfigError, PartialError, Problem

HELP = """stpipe track: send a run, or what is missing of it, to experiment trackers.

Usage: stpipe track RUN [overrides]

RUN is a run directory whose run is over. Its own trackers get what they do not have yet; overrides name others, or change
an address. Metrics come from metrics.jsonl with their steps and times, so it does not matter when this is done.

Examples
  stpipe track outputs/dense_quickstart/my-run
  stpipe track outputs/dense_quickstart/my-run tracker=mlflow tracker.mlflow.tracking_uri=http://host:5000
"""


def run(arguments: list[str]) -> int:
    """Returns the exit code: 5 when a tracker still lacks something."""
    flags = argparse.ArgumentParser(prog="stpipe track", add_help=False, allow_abbrev=False)
    flags.add_argument("run", nargs="?")
    flags.add_argument("overrides", nargs="*")
    flags.add_argument("--help", "-h", action="store_true")
    args = flags.parse_intermixed_args(arguments)
    if args.help:
        print(HELP, end="")
        return 0
    if args.run is None or "=" in args.run:
        raise ConfigError("RUN is missing: stpipe track RUN [overrides]. A run directory, as `stpipe train` printed it")
    from stpipe.config.load import load_saved
    from stpipe.config.yaml_file import read_yaml

    folder = Path(args.run)
    values = load_saved(args.run, args.overrides)
    check(folder, values)
    saved, _ = read_yaml(folder / "config.yaml")  # as it is written: what comes from the environment may be secret
    return send(folder, values, saved)


def check(folder: Path, values: dict[str, Any]) -> None:
    """Refuse what cannot be sent."""
    from stpipe.config.finding import Rules
    from stpipe.config.origins import Origins
    from stpipe.config.schema import load_schema
    from stpipe.config.tracker_rules import tracker_addresses, tracker_names, trackers_are_installed
    from stpipe.trackers.base import is_running

    if not values["tracker"]:
        raise ConfigError(Problem("tracker", f"the run in {folder} has no tracker. Name one: stpipe track {folder} tracker=mlflow"))
    rules = Rules(values, load_schema(values["imports"]), Origins())
    for rule in (trackers_are_installed, tracker_names, tracker_addresses):
        rule(rules)
    if rules.finding.problems:
        raise ConfigError(rules.finding.problems)
    if is_running(folder, besides=os.getpid()):
        raise ConfigError(Problem("RUN", f"the run in {folder} is still going on, and its trackers follow it"))


def send(folder: Path, values: dict[str, Any], saved: dict[str, Any]) -> int:
    """Let every tracker take what it lacks."""
    from stpipe.pipeline.status import amend_status
    from stpipe.trackers import Followers, Memory

    followers = Followers(folder, values["tracker"], config=saved, imports=values["imports"], offline=values["offline"])
    failures: list[str] = []
    found = followers.close(failures.append)
    amend_status(folder / "status.json", lambda status: status.update(trackers={**status.get("trackers", {}), **found}))
    for name, state in found.items():
        memory = Memory.load(Memory.place(folder, name))
        print(f"{name:<14} {'has everything' if state == 'finished' else 'behind'}  {memory.url or ''}".rstrip())
    if failures:
        raise PartialError("\n".join(failures))
    return 0
