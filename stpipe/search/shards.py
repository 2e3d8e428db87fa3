"""Arrays on disk in shards: each is written aside and renamed, proved by its checksums, and read through memory maps."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from stpipe.config.errors import ConfigError
from stpipe.core.digest import is_complete, write_manifest

#: Arrays of one shard by name.
Arrays = dict[str, NDArray[Any]]
NUMBERED = "[0-9]*"


class Shards:
    """Numbered groups of named arrays below one folder.

    A process that is killed leaves finished shards and at most one folder that is not looked at again. What was damaged
    since is found by its checksum, removed, and counts as never written. `lock` keeps other processes away while shards are added.

    Args:
        folder: made when the first shard is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def lock(self) -> FileLock:
        """To be held while shards are looked for and added."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        return FileLock(self.folder / ".lock")

    def numbers(self) -> list[int]:
        """Numbers of the whole shards in rising order; damaged ones are removed."""
        found = []
        for place in sorted(self.folder.glob(NUMBERED)):
            if is_complete(place):
                found.append(int(place.name))
            else:
                shutil.rmtree(place, ignore_errors=True)
        return found

    def read(self, number: int) -> Arrays:
        """The arrays of a whole shard, each a memory map."""
        return {file.stem: np.load(file, mmap_mode="r") for file in sorted(self._place(number).glob("*.npy"))}

    def write(self, number: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write one shard, replacing what has its number."""
        place = self._place(number)
        aside = self.folder / f".writing-{place.name}"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            for name, values in arrays.items():
                np.save(aside / f"{name}.npy", values)
            write_manifest(aside)
            shutil.rmtree(place, ignore_errors=True)
            aside.rename(place)
        except OSError as error:
            raise self._unwritable(error) from error

    def _place(self, number: int) -> Path:
        return self.folder / f"{number:08d}"

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"the cache folder {self.folder} cannot be written: {error.strerror or error}. "
            "Set mine.cache_dir (cache_folder of mine_hard_negatives) or the environment variable STPIPE_CACHE to a folder with room"
        )
