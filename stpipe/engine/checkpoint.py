"""Checkpoints that are either complete or not there: written aside, checksummed, synced, renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stpipe.config.errors import ConfigError, TrainingError
from stpipe.core.peers import Peers

MANIFEST = "manifest.json"
STATE = "state.json"
PREFIX = "step-"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    path: Path
    step: int

    def state(self) -> dict[str, Any]:
        """Everything but tensors: position, best metric, callbacks, identity of the run."""
        return json.loads((self.path / STATE).read_text())

    def tensors(self, name: str) -> Any:
        """A stored part (`module`, `optimizer`, ...), loaded without unpickling code."""
        return torch.load(self.path / f"{name}.pt", map_location="cpu", weights_only=True)

    def has(self, name: str) -> bool:
        return (self.path / f"{name}.pt").exists()


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    tensors: Mapping[str, Any],
    state: Mapping[str, Any],
    own: Mapping[str, Any] | None = None,
    peers: Peers | None = None,
) -> Checkpoint:
    """Write `folder/step-XXXXXXXX`. A failure on the way leaves earlier checkpoints as they were.

    Args:
        folder: of all checkpoints of the run.
        step: steps done.
        tensors: parts by name, written by rank 0.
        state: everything but tensors, written by rank 0.
        own: parts of this process alone; their names differ between processes.
        peers: the processes of the run, which all call this and return when the checkpoint is complete.

    Raises:
        TrainingError: the disk is full or not writable.
    """
    final = folder / f"{PREFIX}{step:08d}"
    aside = folder / f".writing-{final.name}"
    peers = peers or Peers()
    try:
        with peers.main_first("checkpoint folder"):
            if peers.is_main:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
        for name, value in {**(tensors if peers.is_main else {}), **(own or {})}.items():
            torch.save(value, aside / f"{name}.pt")
        peers.all_here("checkpoint parts")
        if not peers.is_main:
            peers.all_here("checkpoint")
            return Checkpoint(final, step)
        (aside / STATE).write_text(json.dumps(state, indent=1, sort_keys=True))
        files = {p.name: {"sha256": file_sha256(p), "size": p.stat().st_size} for p in sorted(aside.iterdir())}
        (aside / MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1))
        for path in (*aside.iterdir(), aside):
            sync(path)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        sync(folder)
        peers.all_here("checkpoint")
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise TrainingError(f"could not write checkpoint {final}: {error.strerror or error}. Earlier checkpoints are intact.") from error
    return Checkpoint(final, step)


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """Checkpoints that have a manifest, oldest first."""
    found = [Checkpoint(p, int(p.name[len(PREFIX) :])) for p in folder.glob(f"{PREFIX}*") if (p / MANIFEST).exists()]
    return sorted(found, key=lambda c: c.step)


def damage(checkpoint: Checkpoint) -> str | None:
    """What is wrong with a checkpoint's files, by their checksums; None when nothing is."""
    try:
        files = json.loads((checkpoint.path / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    for name, entry in files.items():
        path = checkpoint.path / name
        if not path.exists():
            return f"{name} is missing"
        if path.stat().st_size != entry["size"] or file_sha256(path) != entry["sha256"]:
            return f"{name} differs from its checksum"
    return None


def newest_complete(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest intact checkpoint, and a line for each damaged one that was passed over."""
    notes: list[str] = []
    for checkpoint in reversed(list_checkpoints(folder)):
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint, notes
        notes.append(f"passed over {checkpoint.path.name}: {problem}")
    return None, notes


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at an explicit path; anything but an intact one is refused."""
    if not (path / MANIFEST).exists():
        raise ConfigError(
            f"trainer.resume={path}: there is no complete checkpoint (no {MANIFEST}). Give a folder like checkpoints/step-00000100."
        )
    checkpoint = Checkpoint(path, int(json.loads((path / MANIFEST).read_text())["step"]))
    problem = damage(checkpoint)
    if problem is not None:
        raise ConfigError(f"trainer.resume={path}: the checkpoint is damaged: {problem}")
    return checkpoint


def retain(folder: Path, *, limit: int, keep: set[int]) -> None:
    """Delete old checkpoints beyond `limit`, but never the newest nor those at the steps in `keep`."""
    found = list_checkpoints(folder)
    spare = [c for c in found[:-1] if c.step not in keep]
    for checkpoint in spare[: max(0, len(found) - limit)]:
        shutil.rmtree(checkpoint.path)


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    # hashlib.file_digest is new in Python 3.11.
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Force a file or a directory entry to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
