"""128-bit hashes of values, files and folders, and the manifest that proves a folder whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import xxhash

MANIFEST = "manifest.json"


def digest(value: Any) -> str:
    """128-bit hash of a JSON value, whatever the order of its keys."""
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True, ensure_ascii=True).encode())


def file_digest(path: Path) -> str:
    """128-bit hash of the bytes of a file."""
    state = xxhash.xxh3_128()
    with path.open("rb") as handle:
        while block := handle.read(1 << 22):
            state.update(block)
    return state.hexdigest()


def folder_digest(folder: Path) -> str:
    """Hash of all files below a folder with their names: the identity of a model or a data set that lies there."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return digest({p.relative_to(folder).as_posix(): file_digest(p) for p in files})


def write_manifest(folder: Path) -> None:
    """Note the hash of every file that is below the folder now."""
    files = {p.relative_to(folder).as_posix(): file_digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    (folder / MANIFEST).write_text(json.dumps({"files": files}))


def is_complete(folder: Path) -> bool:
    """True when the folder holds what its manifest says, byte for byte."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return all(file_digest(folder / name) == expected for name, expected in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
