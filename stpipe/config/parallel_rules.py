"""Rules about files of parallel sentences (`parallel://`): their options, and what else a data set of them may say."""

from __future__ import annotations

from collections.abc import Callable

from stpipe.config.data_format import PARALLEL, parallel_address, sources
from stpipe.config.finding import Rules
from stpipe.config.formats import FORMATS
from stpipe.config.places import place
from stpipe.config.teaching import untaught_format

PAIR = ("anchor", "positive")


def parallel_addresses(rules: Rules) -> None:
    """Options of the address, and the format: pairs, whatever labels a teacher gives them."""
    for name, path, section in sources(rules.values["dataset"]):
        for key in ("train", "eval"):
            text = section[key]
            if not isinstance(text, str) or not text.startswith(PARALLEL):
                continue
            problem = parallel_address(text)[2]
            if problem:
                rules.problem((*path, key), f"{rules.origins.shown((*path, key), text)}: {problem}")
            fmt = section["format"] if key == "train" or section["eval_format"] is None else section["eval_format"]
            if fmt is not None and (
                FORMATS[untaught_format(fmt)].least_roles() != PAIR or (FORMATS[fmt].label and section["teacher"] is None)
            ):
                what = f"data set '{name}' reads parallel sentences, which are pairs without labels, not {fmt}"
                rules.problem((*path, "format"), f"{what}. Remove the key; dataset.teacher labels pairs")


def parallel_files_exist(rules: Rules) -> None:
    """Files that a look tells are not there."""
    for _, path, section in sources(rules.values["dataset"]):
        for key in ("train", "eval"):
            if isinstance(section[key], str) and section[key].startswith(PARALLEL):
                place(rules, (*path, key), parallel_address(section[key])[0])


PARALLEL_RULES: tuple[Callable[[Rules], None], ...] = (parallel_addresses, parallel_files_exist)
