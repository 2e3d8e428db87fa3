"""`stpipe list`."""

from __future__ import annotations

import argparse
import json

from stpipe.config.catalog import catalog, groups
from stpipe.config.errors import ConfigError
from stpipe.config.schema import load_schema
from stpipe.config.suggest import unknown_name

HELP = """stpipe list: recipes and options of each config group, one line each.

Usage: stpipe list [GROUP] [--json] [--config-dir DIR]

Examples
  stpipe list               everything
  stpipe list recipe        recipes, chosen with +recipe=NAME
  stpipe list loss          losses, chosen with loss=NAME
  stpipe list model --json

A line is the first line of a YAML file, or the first sentence of a component's documentation.
"""


def run(arguments: list[str]) -> int:
    """Returns the exit code."""
    flags = argparse.ArgumentParser(prog="stpipe list", add_help=False, allow_abbrev=False)
    flags.add_argument("group", nargs="?")
    flags.add_argument("--json", action="store_true")
    flags.add_argument("--config-dir", "-cd")
    flags.add_argument("--help", "-h", action="store_true")
    args = flags.parse_args(arguments)
    if args.help:
        print(HELP, end="")
        return 0
    schema = load_schema()
    known = groups(schema, config_dir=args.config_dir)
    if args.group is not None and args.group not in known:
        raise ConfigError(unknown_name("config group", args.group, known))
    chosen = known if args.group is None else [args.group]
    found = {group: catalog(schema, group, config_dir=args.config_dir) for group in chosen}
    print(json.dumps(found, indent=2) if args.json else table(found), end="\n" if args.json else "")
    return 0


def table(found: dict[str, dict[str, str]]) -> str:
    """The options of all groups as aligned text."""
    text = ""
    for group, options in found.items():
        plus = "+" if group in ("recipe", "profile") else ""
        width = max((len(name) for name in options), default=0)
        text += f"{plus}{group}=\n" + "".join(f"  {name:<{width}}  {line}".rstrip() + "\n" for name, line in options.items())
    return text
