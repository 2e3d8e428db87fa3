"""Flags and overrides of the verbs that compose a configuration: Hydra's own flags, and few of stpipe's."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stpipe.config.load import Loaded

#: Stages of `stpipe train`, in their order (pipeline/stage_table.py, which is not imported here because it needs torch).
STAGE_NAMES = ("train", "save", "evaluate", "export", "card", "publish", "report")

FLAGS_HELP = """
Flags
  --from DIR               repeat the run in DIR: its saved configuration, with overrides on top
  --config-dir, -cd DIR    a folder of your own config groups and recipes; its files win over stpipe's
  --config-name, -cn NAME  another primary config (default: train)
  --config-path, -cp DIR   replaces stpipe's configs folder
  --multirun, -m           one job for each combination of a=1,2 b=x,y (Hydra's sweepers and launchers)
  --cfg, -c job|hydra|all  print the composed config instead; --resolve, --package, -p PACKAGE as in Hydra
  --info, -i [WHAT]        all, config, defaults, defaults-tree, plugins or searchpath
  --hydra-help             Hydra's own help
  -sc install=bash         shell completion
  --pdb                    debugger at an unexpected error

Overrides: KEY=VALUE, GROUP=OPTION, +recipe=NAME, +profile=NAME (offline, smoke), ~KEY removes what a recipe sets.
"""


def parser(verb: str, *, dry_run: bool = False) -> argparse.ArgumentParser:
    """Parser of a composing verb; its help is printed by the verb itself."""
    flags = argparse.ArgumentParser(prog=f"stpipe {verb}", add_help=False, allow_abbrev=False)
    flags.set_defaults(verb=verb)
    flags.add_argument("overrides", nargs="*")
    flags.add_argument("--help", "-h", action="store_true")
    flags.add_argument("--from", dest="from_dir", metavar="DIR")
    flags.add_argument("--config-dir", "-cd", metavar="DIR")
    flags.add_argument("--config-path", "-cp", metavar="DIR")
    flags.add_argument("--config-name", "-cn", default="train", metavar="NAME")
    flags.add_argument("--multirun", "-m", action="store_true")
    flags.add_argument("--run", "-r", action="store_true")
    flags.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    flags.add_argument("--resolve", action="store_true")
    flags.add_argument("--package", "-p", metavar="PACKAGE")
    flags.add_argument(
        "--info", "-i", nargs="?", const="all", choices=("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    )
    flags.add_argument("--hydra-help", action="store_true")
    if dry_run:
        flags.add_argument("--dry-run", action="store_true")
    if verb == "train":
        flags.add_argument("--stage", choices=STAGE_NAMES, metavar="NAME")
    return flags


def load(args: argparse.Namespace, overrides: Sequence[str] | None = None) -> Loaded:
    """The checked configuration that the arguments ask for; the offline switches are set when it says so."""
    from stpipe.config.load import load_config
    from stpipe.config.offline import go_offline

    loaded = load_config(
        args.overrides if overrides is None else overrides,
        config_dir=args.config_dir,
        config_path=args.config_path,
        config_name=args.config_name,
        from_dir=args.from_dir,
    )
    if loaded.values["offline"]:
        go_offline()
    return loaded


def run_composed(args: argparse.Namespace, job: Callable[[Loaded], int]) -> int:
    """Compose and run `job`, or do what Hydra's flags ask for instead."""
    return run_composing(args, lambda compose: job(compose()))


def run_composing(args: argparse.Namespace, job: Callable[[Callable[[], Loaded]], int]) -> int:
    """The same for a job that composes by itself, if at all: it gets a function that does."""
    if args.multirun or args.cfg or args.info or args.hydra_help or args.resolve:
        from stpipe.cli.hydra_flags import run_flags

        return run_flags(args, job)
    refuse_launcher(args.overrides)
    return job(lambda: load(args))


def refuse_launcher(overrides: Sequence[str]) -> None:
    """Without --multirun Hydra starts no launcher, so the run would be computed here, where nobody expects it."""
    from stpipe.config.errors import ConfigError, Problem

    found = [text for text in overrides if text.lstrip("+").startswith("hydra/launcher=")]
    if found:
        message = (
            "launchers start the jobs of --multirun (-m), also when there is only one; one run is a job of SLURM with `stpipe slurm submit`"
        )
        raise ConfigError(Problem("hydra/launcher", message, found[0]))
