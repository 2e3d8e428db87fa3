"""`stpipe publish`."""

from __future__ import annotations

import argparse
from pathlib import Path

from stpipe.config.errors import ConfigError, Problem

HELP = """stpipe publish: publish the model of a run to a Hub.

Usage: stpipe publish RUN [overrides]

RUN is a run directory with a saved model. Where to is what the run's configuration says, or overrides. The token comes from
the environment (HF_TOKEN) or from `hf auth login`, another Hub from HF_ENDPOINT.

Examples
  stpipe publish outputs/dense_quickstart/my-run
  stpipe publish outputs/dense_quickstart/my-run publish.repo_id=me/my-model publish.private=false
"""


def run(arguments: list[str]) -> int:
    """Returns the exit code: 5 when the Hub does not take it."""
    flags = argparse.ArgumentParser(prog="stpipe publish", add_help=False, allow_abbrev=False)
    flags.add_argument("run", nargs="?")
    flags.add_argument("overrides", nargs="*")
    flags.add_argument("--help", "-h", action="store_true")
    args = flags.parse_intermixed_args(arguments)
    if args.help:
        print(HELP, end="")
        return 0
    if args.run is None or "=" in args.run:
        raise ConfigError("RUN is missing: stpipe publish RUN [overrides]. A run directory, as `stpipe train` printed it")
    from stpipe.config.build import construct
    from stpipe.config.finding import Rules
    from stpipe.config.load import load_saved
    from stpipe.config.origins import Origins
    from stpipe.config.sections import PublishSection
    from stpipe.config.tracker_rules import publishing

    values = load_saved(args.run, args.overrides)
    if values["publish"] is None:
        raise ConfigError(Problem("publish", f"nothing says where to: stpipe publish {args.run} publish.repo_id=OWNER/NAME"))
    rules = Rules(values, {}, Origins())
    publishing(rules)
    if rules.finding.problems:
        raise ConfigError(rules.finding.problems)
    from stpipe.pipeline.publish import publish_finished

    print(publish_finished(Path(args.run), construct(PublishSection, values["publish"]), name=str(values["run"]["name"])))
    return 0
