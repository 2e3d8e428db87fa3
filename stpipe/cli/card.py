"""`stpipe card`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stpipe.config.card_rules import CARD_RULES, template_exists
from stpipe.config.errors import ConfigError, Problem
from stpipe.config.finding import Rules
from stpipe.config.origins import Origins
from stpipe.config.suggest import did_you_mean

HELP = """stpipe card: write the model card of a run, or of a saved model, anew.

Usage: stpipe card DIR [card.KEY=VALUE ...] [--overwrite]

DIR is the directory of a run, in whatever state it is once its model is saved, the model/ inside it, or any model in the format
of sentence-transformers. No weights are loaded and no network is used; the same files give the same bytes. Of a run the card is
replaced; a README.md beside a model without a run is replaced with --overwrite only. Keys given here win over those of the run.

Keys: card.language, card.license, card.model_name, card.examples, card.template

Examples
  stpipe card outputs/dense_quickstart/dense-1f2e3d4c
  stpipe card outputs/dense_quickstart/dense-1f2e3d4c card.license=apache-2.0 card.language=en
  stpipe card outputs/dense_quickstart/dense-1f2e3d4c card.template=my_card.md.j2
  stpipe card ./my-model card.model_name='Search in recipes' --overwrite
"""
KEYS = ("language", "license", "model_name", "examples", "template")
RUN_FILES = ("config.yaml", "status.json")
MODEL = "model"
README = "README.md"


def run(arguments: list[str]) -> int:
    """Returns the exit code."""
    flags = argparse.ArgumentParser(prog="stpipe card", add_help=False, allow_abbrev=False)
    flags.add_argument("words", nargs="*", metavar="DIR")
    flags.add_argument("--overwrite", action="store_true")
    flags.add_argument("--help", "-h", action="store_true")
    args = flags.parse_args(arguments)
    if args.help:
        print(HELP, end="")
        return 0
    if not args.words or "=" in args.words[0]:
        raise ConfigError("DIR is missing: stpipe card DIR [card.KEY=VALUE]. The directory of a run, or of a model")
    settings = read_settings(args.words[1:])
    template = settings.pop("template", None)
    path = build(Path(args.words[0]), settings, None if template is None else Path(template).expanduser(), overwrite=args.overwrite)
    print(path)
    return 0


def build(directory: Path, settings: dict[str, Any], template: Path | None, *, overwrite: bool) -> Path:
    """Write the card of whatever the directory is."""
    from stpipe.cards.card import write_card, write_model_card
    from stpipe.cards.content import check_user_template
    from stpipe.cards.model_files import read_model

    if not directory.is_dir():
        raise ConfigError(Problem("DIR", f"'{directory}' is no directory. Expected: the directory of a run (run.dir), or of a model"))
    if template is not None:
        check_user_template(template)
    run_dir = directory.resolve().parent if directory.resolve().name == MODEL else directory
    if any((run_dir / name).is_file() for name in RUN_FILES):
        if not (run_dir / MODEL).is_dir():
            what = f"{run_dir} is a run without {MODEL}/: it did not get as far as saving its weights"
            raise ConfigError(Problem("DIR", what))
        return write_card(run_dir, run_dir / MODEL, settings=settings, template=template)
    if (directory / README).exists() and not overwrite:
        raise ConfigError(
            Problem("DIR", f"{directory / README} is there, and there is no run to make it anew from. Use --overwrite to replace it")
        )
    return write_model_card(directory, data=card_data(read_model(directory).kind, settings), template=template)


def card_data(kind: str | None, settings: dict[str, Any]) -> Any:
    """What is said of a model of which there is no run."""
    from stpipe.cards.data import CARD_DATA

    return CARD_DATA[kind or "dense"](**{k: v for k, v in settings.items() if k != "examples"})


def read_settings(words: Sequence[str]) -> dict[str, Any]:
    """`card.KEY=VALUE` as keys of the card section. Values are text as it stands (the language `no` is no boolean); null is none."""
    given: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        name = key.removeprefix("card.")
        if not equals or not key.startswith("card.") or name not in KEYS:
            known = ", ".join(f"card.{k}" for k in KEYS)
            raise ConfigError(Problem(key, f"no key of a card. {did_you_mean(name, KEYS)}Keys: {known}, each with =VALUE"))
        given[name] = None if value == "null" else value
    if "examples" in given:
        given["examples"] = _switch(given["examples"])
    rules = Rules({"card": {**dict.fromkeys(KEYS), **given}}, {}, Origins())
    for rule in (*CARD_RULES, template_exists):
        rule(rules)
    if rules.finding.problems:
        raise ConfigError(rules.finding.problems)
    for warning in rules.finding.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return given


def _switch(value: str | None) -> bool:
    if value not in ("true", "false"):
        raise ConfigError(Problem("card.examples", f"found {value!r}, expected true or false"))
    return value == "true"
