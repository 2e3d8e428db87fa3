"""Where rows come from: a Hub id, local files and directories, files of an installed package, the standard library."""

from __future__ import annotations

import os
from pathlib import Path

from stpipe.data.sources.directory import read_directory
from stpipe.data.sources.files import SUFFIXES, read_file, suffix_of
from stpipe.data.sources.hub import read_hub
from stpipe.data.sources.package import package_path
from stpipe.data.sources.request import SourceRequest, not_found
from stpipe.data.sources.stdlib import SCHEME as STDLIB
from stpipe.data.sources.stdlib import read_stdlib
from stpipe.data.table import RawTable, concatenate

__all__ = ["SourceRequest", "has_own_split", "open_source"]


def open_source(request: SourceRequest) -> RawTable:
    """Read all rows of one split of a source."""
    uri = request.uri
    if uri.startswith(STDLIB):
        return read_stdlib(request)
    if uri.startswith("package://"):
        return _read_path(request, package_path(request))
    if "://" in uri and not uri.startswith("hf://"):
        scheme = uri.split("://")[0]
        raise not_found(request, f"unknown scheme '{scheme}://'. Known: package://MODULE/PATH, {STDLIB}; a path or a Hub id has none")
    path = Path(uri).expanduser()
    if path.exists() or _looks_local(uri):
        return _read_path(request, path)
    return read_hub(request)


def has_own_split(uri: str) -> bool:
    """True for sources that bring held-out data with them, so that none needs to be split off the training rows."""
    return uri.startswith(STDLIB)


def _looks_local(uri: str) -> bool:
    """True when a name that does not exist here was meant as a path and not as `user/name` of the Hub."""
    return uri.startswith((".", "/", "~", os.sep)) or suffix_of(Path(uri)) in SUFFIXES or uri.count("/") > 1 or any(c in uri for c in "*?[")


def _read_path(request: SourceRequest, path: Path) -> RawTable:
    if path.is_dir():
        return read_directory(request, path)
    if any(c in path.name for c in "*?[") and not path.exists():
        files = sorted(path.parent.glob(path.name))
        if not files:
            raise not_found(request, f"no file matches {path}")
        return concatenate([read_file(f) for f in files])
    if not path.is_file():
        raise not_found(request, f"there is no file or directory {path}")
    if request.splits and not request.optional_split and request.splits != ("train",):
        raise not_found(request, f"{path} is a single file and has no split '{request.splits[0]}'; remove the split key")
    return read_file(path)
