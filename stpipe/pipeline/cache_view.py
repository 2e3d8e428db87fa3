"""A view of the caches for a dry run: what they hold is found, what is made lies in a temporary folder and goes with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from stpipe.config.sections import RootConfig
from stpipe.data.cache import MANIFEST, cache_root

#: Kinds of entries that are whole folders with a manifest; embeddings grow file by file and are not looked at.
KINDS = ("tokens", "docstrings", "guides", "mined", "static")


@contextmanager
def cache_view(root: RootConfig) -> Iterator[RootConfig]:
    """The configuration with its caches replaced by views of them, inside the context."""
    with tempfile.TemporaryDirectory(prefix="stpipe-dry-") as scratch:
        tokens = Path(scratch, "cache")
        mirror(cache_root(root.dataset.cache_dir), tokens)
        mine = root.mine
        if mine is not None:
            own = Path(scratch, "mine") if mine.cache_dir else tokens
            if mine.cache_dir:
                mirror(cache_root(mine.cache_dir), own)
            mine = replace(mine, cache_dir=str(own))
        yield replace(root, dataset=replace(root.dataset, cache_dir=str(tokens)), mine=mine)


def mirror(cache: Path, into: Path) -> None:
    """A folder with links to the entries of a cache. They are never written through: an entry that is whole is read, a damaged one made anew."""
    into.mkdir(parents=True)
    for kind in KINDS:
        found = [p for p in (cache / kind).iterdir() if (p / MANIFEST).is_file()] if (cache / kind).is_dir() else []
        (into / kind).mkdir()
        for entry in found:
            (into / kind / entry.name).symlink_to(entry.resolve(), target_is_directory=True)


def is_hit(folder: Path) -> bool:
    """Whether a folder of a view is an entry that was there before."""
    return folder.is_symlink()
