"""Local directories: what `datasets` saved, or data files whose names say the split."""

from __future__ import annotations

import re
from pathlib import Path

import datasets

from stpipe.data.sources.files import SUFFIXES, read_file, suffix_of
from stpipe.data.sources.hub import from_dataset
from stpipe.data.sources.request import SourceRequest, not_found, pick_split
from stpipe.data.table import RawTable, concatenate

SPLIT_NAME = re.compile(r"(train|training|validation|valid|val|dev|eval|test)(?![a-z])", re.IGNORECASE)
#: JSON beside data that is none: the report of `stpipe mine`.
REPORTS = ("mine.json",)
CANONICAL = {"training": "train", "valid": "validation", "val": "validation"}


def read_directory(request: SourceRequest, path: Path) -> RawTable:
    """One split of a directory."""
    if (path / "dataset_dict.json").is_file():
        return _load_saved(request, path / pick_split(request, sorted(p.name for p in path.iterdir() if (p / "state.json").is_file())))
    if (path / "state.json").is_file():
        return _load_saved(request, path)
    return concatenate([read_file(f) for f in data_files(request, path)])


def is_saved(path: Path) -> bool:
    """True for what datasets.save_to_disk wrote."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def data_files(request: SourceRequest, path: Path) -> list[Path]:
    """The files of one split of a directory of data files, by name."""
    by_split: dict[str, list[Path]] = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file() and suffix_of(p) in SUFFIXES and p.name not in REPORTS):
        by_split.setdefault(_split_of(file.relative_to(path)), []).append(file)
    if not by_split:
        raise not_found(
            request, f"the directory {path} holds no data: expected {', '.join(SUFFIXES)}, or what datasets.save_to_disk writes"
        )
    return by_split[pick_split(request, list(by_split))]


def _split_of(relative: Path) -> str:
    """The split that a file name, or else a folder on the way to it, starts with; `train` when none does."""
    for part in reversed(relative.parts):
        match = SPLIT_NAME.match(part)
        if match:
            name = match.group(1).lower()
            return CANONICAL.get(name, name)
    return "train"


def _load_saved(request: SourceRequest, path: Path) -> RawTable:
    try:
        return from_dataset(datasets.load_from_disk(str(path)), origin=str(path))
    except (OSError, ValueError, KeyError) as error:
        raise not_found(
            request, f"the data set saved in {path} cannot be loaded ({error}); save it again with datasets.save_to_disk"
        ) from error
