"""What one reader of a source is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from stpipe.config.errors import ConfigError, Problem
from stpipe.data.teacher import Teacher


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """One source and split.

    key: configuration key that named it, for messages; splits: names to try, the first that exists is read;
    optional_split: the names are guesses, so a source without splits is read whole; format: dataset.format;
    cache_dir: dataset.cache_dir; offline: ask no hub; teacher: gives the labels of embedded data that wants a teacher's;
    rows, seed: no more rows will be used than so many, drawn by this seed (data/draw.py). A source whose rows are costly makes no others.
    """

    uri: str
    key: str = "dataset.train"
    splits: tuple[str, ...] = ("train",)
    optional_split: bool = True
    subset: str | None = None
    revision: str | None = None
    format: str | None = None
    cache_dir: str | None = None
    offline: bool = False
    teacher: Teacher | None = None
    rows: int | None = None
    seed: int = 0


def not_found(request: SourceRequest, what: str) -> ConfigError:
    """The error for a source that does not exist or cannot be reached."""
    return ConfigError(Problem(request.key, f"'{request.uri}': {what}."))


def pick_split(request: SourceRequest, available: list[str]) -> str:
    """The first requested split that exists; a single split when the names are only guesses."""
    for name in request.splits:
        if name in available:
            return name
    if request.optional_split and len(available) == 1:
        return available[0]
    wanted = " or ".join(f"'{s}'" for s in request.splits)
    split_key = request.key.removesuffix("train").removesuffix("eval") + ("split" if request.key.endswith("train") else "eval_split")
    raise not_found(request, f"there is no split {wanted}. Splits: {', '.join(available) or 'none'}; choose one with {split_key}")
