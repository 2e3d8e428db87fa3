"""Which files the rows of a data set came from, with checksums: what another machine needs to know that it has the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import try_to_load_from_cache

from stpipe.data.table import RawTable

HUB_FILE = re.compile(r"hf://datasets/(?P<id>[^@]+)@(?P<revision>[^/]+)/(?P<path>.+)")
#: Local files are hashed as long as all of them together have at most this many bytes: well below a second.
MOST_BYTES = 512 * 2**20
MOST_FILES = 20
SHA256, GIT_SHA1 = 64, 40  # hex digits in the names of the Hub cache


def provenance(raw: RawTable, files: Sequence[Path] = ()) -> dict[str, Any]:
    """What is known of the origin of rows: that of the Hub, or `files` of this disk with bytes and sha256, by name.

    files: those of the data set, where `raw` is a part of it.
    """
    if raw.provenance:
        return dict(raw.provenance)
    paths = list(files) or [p for p in dict.fromkeys(Path(span.origin) for span in raw.spans) if p.is_file()]
    return {"files": local_files(paths)} if paths else {}


def local_files(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Name -> bytes, and sha256 while there are few bytes (MOST_BYTES); names only, no folders. At most MOST_FILES files."""
    found: dict[str, dict[str, Any]] = {}
    left = MOST_BYTES
    for path in list(paths)[:MOST_FILES]:
        size = path.stat().st_size
        left -= size
        found[path.name] = {"bytes": size, **({"sha256": _sha256(path)} if left >= 0 else {})}
    return found


def hub_provenance(name: str, dataset: datasets.Dataset) -> dict[str, Any]:
    """id, subset, split, revision (a commit) and files of a data set of the Hub, from what `datasets` keeps with it. Asks no hub."""
    files: dict[str, dict[str, Any]] = {}
    revision = None
    for address, facts in (dataset.info.download_checksums or {}).items():
        match = HUB_FILE.fullmatch(str(address))
        if match is None:
            continue
        revision = match["revision"]
        if len(files) < MOST_FILES:
            files[match["path"]] = {"bytes": facts.get("num_bytes"), **_checksum(match, facts)}
    split = None if dataset.split is None else str(dataset.split)
    return {"id": name, "subset": dataset.info.config_name, "split": split, "revision": revision, "files": files}


def _checksum(match: re.Match[str], facts: Mapping[str, Any]) -> dict[str, str]:
    """As recorded, else as the Hub cache names the file: by its sha256 (large files) or the id that git gives it."""
    if facts.get("checksum"):
        return {"sha256": str(facts["checksum"])}
    cached = try_to_load_from_cache(match["id"], match["path"], revision=match["revision"], repo_type="dataset")
    if not isinstance(cached, str):
        return {}
    blob = Path(cached).resolve().name
    kind = {SHA256: "sha256", GIT_SHA1: "git_sha1"}.get(len(blob))
    return {kind: blob} if kind and re.fullmatch(r"[0-9a-f]+", blob) else {}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
