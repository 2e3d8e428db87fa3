"""Where rows come from: a Hub id, local files and directories, parallel sentences, files of an installed package, the standard library."""

from __future__ import annotations

import os
from pathlib import Path

from stpipe.config.data_format import PARALLEL
from stpipe.config.places import exists
from stpipe.data.sources.directory import data_files, is_saved, read_directory
from stpipe.data.sources.files import SUFFIXES, read_file, suffix_of
from stpipe.data.sources.hub import read_hub
from stpipe.data.sources.package import package_path
from stpipe.data.sources.parallel import parallel_path, read_parallel
from stpipe.data.sources.request import SourceRequest, not_found
from stpipe.data.sources.stdlib import SCHEME as STDLIB
from stpipe.data.sources.stdlib import read_stdlib
from stpipe.data.table import RawTable, concatenate

__all__ = ["SourceRequest", "has_own_split", "local_files", "local_path", "open_source"]


def open_source(request: SourceRequest) -> RawTable:
    """Read all rows of one split of a source."""
    if request.uri.startswith(STDLIB):
        return read_stdlib(request)
    if request.uri.startswith(PARALLEL):
        place, longest = parallel_path(request)
        return read_parallel(_files(request, place), longest)
    path = local_path(request)
    return read_hub(request) if path is None else _read_path(request, path)


def local_path(request: SourceRequest) -> Path | None:
    """Where a source of tables lies on this machine; None for the standard library, parallel sentences and the Hub."""
    uri = request.uri
    if uri.startswith("package://"):
        return package_path(request)
    if uri.startswith((STDLIB, PARALLEL)):
        return None
    if "://" in uri and not uri.startswith("hf://"):
        scheme = uri.split("://")[0]
        raise not_found(
            request, f"unknown scheme '{scheme}://'. Known: package://MODULE/PATH, {PARALLEL}PATH, {STDLIB}; a path or a Hub id has none"
        )
    return Path(uri).expanduser() if exists(uri) or _looks_local(uri) else None


def has_own_split(uri: str) -> bool:
    """True for sources that bring held-out data with them, so that none needs to be split off the training rows."""
    return uri.startswith(STDLIB)


def _looks_local(uri: str) -> bool:
    """True when a name that does not exist here was meant as a path and not as `user/name` of the Hub."""
    return uri.startswith((".", "/", "~", os.sep)) or suffix_of(Path(uri)) in SUFFIXES or uri.count("/") > 1 or any(c in uri for c in "*?[")


def _read_path(request: SourceRequest, path: Path) -> RawTable:
    return (
        read_directory(request, path) if exists(str(path)) and path.is_dir() else concatenate([read_file(f) for f in _files(request, path)])
    )


def local_files(request: SourceRequest, path: Path) -> list[Path] | None:
    """The data files that a path names; None for what datasets.save_to_disk wrote, which has a format of its own."""
    if exists(str(path)) and path.is_dir():
        return None if is_saved(path) else data_files(request, path)
    return _files(request, path)


def _files(request: SourceRequest, path: Path) -> list[Path]:
    if any(c in path.name for c in "*?[") and not path.exists():
        files = sorted(path.parent.glob(path.name))
        if not files:
            raise not_found(request, f"no file matches {path}")
        return files
    if not exists(str(path)) or not path.is_file():
        raise not_found(request, f"there is no file or directory {path}")
    if request.splits and not request.optional_split and request.splits != ("train",):
        raise not_found(request, f"{path} is a single file and has no split '{request.splits[0]}'; remove the split key")
    return [path]
