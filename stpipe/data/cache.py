"""Folders that are made once: keyed by what went into them, locked while they are made, renamed into place when complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from stpipe.config.errors import ConfigError
from stpipe.core.digest import MANIFEST as MANIFEST
from stpipe.core.digest import digest as digest
from stpipe.core.digest import file_digest as file_digest
from stpipe.core.digest import is_complete as is_complete
from stpipe.core.digest import write_manifest


def cache_root(cache_dir: str | None = None) -> Path:
    """`cache_dir`, else $STPIPE_CACHE, else `stpipe` in the user's cache directory."""
    if cache_dir:
        return Path(cache_dir).expanduser()
    if os.environ.get("STPIPE_CACHE"):
        return Path(os.environ["STPIPE_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "stpipe"


def make_once(folder: Path, build: Callable[[Path], None]) -> bool:
    """Make `folder` with `build(temporary folder)` unless it is there and complete; True when it was made now.

    Processes that ask for the same folder wait for the first one and then find it. A folder that is damaged is replaced.
    Nothing is ever seen under the final name before it is complete.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):
            if is_complete(folder):
                return False
            if folder.is_symlink():  # to an entry of another cache (pipeline/cache_view.py), which is damaged
                folder.unlink()
            shutil.rmtree(folder, ignore_errors=True)
            temporary = folder.with_name(f"{folder.name}.tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            try:
                build(temporary)
                write_manifest(temporary)
                temporary.rename(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            return True
    except OSError as error:
        raise ConfigError(
            f"the cache folder {folder.parent} cannot be written: {error.strerror or error}. "
            "Set dataset.cache_dir or the environment variable STPIPE_CACHE to a folder with room."
        ) from error
