"""Checkpoints that are either complete or not there: written aside, checksummed, synced, renamed."""

from __future__ import annotations

import hashlib
import json
import os
import re
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
#: What stands before the name of a checkpoint while it is written, copied or deleted. Such a folder is none.
WRITING, DELETING = ".writing-", ".deleting-"
#: What stands behind the name of a checkpoint while another one of the same step takes its place. Such a folder is one.
REPLACED = ".replaced"
NAME = re.compile(rf"{PREFIX}(\d+)(?:{re.escape(REPLACED)})?")


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

    @property
    def best(self) -> Checkpoint | None:
        """The checkpoint beside this one that holds the best weights so far; None when there are none yet, or they are here."""
        step = self.state().get("trainer", {}).get("best_step")
        return None if step is None or step == self.step else checkpoint_at(self.path.parent, step)


def checkpoint_at(folder: Path, step: int) -> Checkpoint:
    """The place of a step's checkpoint, whether it is there or not."""
    return Checkpoint(folder / f"{PREFIX}{step:08d}", step)


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
    final = checkpoint_at(folder, step).path
    aside = folder / f"{WRITING}{final.name}"
    peers = peers or Peers()
    try:
        with peers.main_first("checkpoint folder"):
            if peers.is_main:
                clear_leftovers(folder)
                aside.mkdir(parents=True)
        for name, value in {**(tensors if peers.is_main else {}), **(own or {})}.items():
            write_part(aside / f"{name}.pt", value)
        peers.all_here("checkpoint parts")
        if not peers.is_main:
            peers.all_here("checkpoint")
            return Checkpoint(final, step)
        (aside / STATE).write_text(json.dumps(state, indent=1, sort_keys=True))
        files = {p.name: {"sha256": file_sha256(p), "size": p.stat().st_size} for p in sorted(aside.iterdir())}
        (aside / MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1))
        for path in (*aside.iterdir(), aside):
            sync(path)
        put_in_place(aside, final)
        peers.all_here("checkpoint")
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise TrainingError(
            f"could not write checkpoint {final}: {error.strerror or error}. Earlier checkpoints are intact: make room, then continue with "
            "trainer.resume=auto"
        ) from error
    return Checkpoint(final, step)


def put_in_place(aside: Path, final: Path) -> None:
    """Rename a written checkpoint to its name. One that has the name already is a checkpoint under another one until that is done."""
    replaced = final.with_name(final.name + REPLACED)
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    aside.rename(final)
    sync(final.parent)
    delete(replaced)


def restore_name(checkpoint: Checkpoint) -> None:
    """Give a checkpoint its name back that a process was about to replace when it was killed."""
    final = checkpoint_at(checkpoint.path.parent, checkpoint.step).path
    if checkpoint.path.name == final.name + REPLACED and not final.exists():
        checkpoint.path.rename(final)


def write_part(path: Path, value: Any) -> None:
    """Write tensors to a file.

    Raises:
        OSError: the disk is full or not writable. torch turns what it meets while writing into a RuntimeError that does not say so.
    """
    with path.open("wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def clear_leftovers(folder: Path) -> None:
    """Remove what processes that were killed left half written, half copied or half deleted."""
    for pattern in (f"{WRITING}{PREFIX}*", f"{DELETING}{PREFIX}*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def delete(path: Path) -> None:
    """Remove the folder of a checkpoint, if it is there: first its name, so that what a kill leaves of it is no damaged checkpoint."""
    if path.exists():
        aside = path.with_name(f"{DELETING}{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def copy_checkpoint(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """The same checkpoint among those of another run; complete or not there."""
    final = checkpoint_at(folder, checkpoint.step).path
    aside = folder / f"{WRITING}{final.name}"
    clear_leftovers(folder)
    shutil.copytree(checkpoint.path, aside)
    for path in (*aside.iterdir(), aside):
        sync(path)
    put_in_place(aside, final)
    return Checkpoint(final, checkpoint.step)


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """Checkpoints that have a manifest, oldest first. Folders of other names, like copies that a user made, are left alone."""
    named = ((p, NAME.fullmatch(p.name)) for p in folder.glob(f"{PREFIX}*"))
    found = [Checkpoint(p, int(name[1])) for p, name in named if name is not None and (p / MANIFEST).exists()]
    return sorted(found, key=lambda c: (c.step, not c.path.name.endswith(REPLACED)))


def damage(checkpoint: Checkpoint) -> str | None:
    """What is wrong with a checkpoint's files, by their checksums; None when nothing is."""
    try:
        manifest = json.loads((checkpoint.path / MANIFEST).read_text())
        files = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
        step = int(manifest["step"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__}: {error})"
    named = NAME.fullmatch(checkpoint.path.name)
    if named is not None and int(named[1]) != step:
        return f"{MANIFEST} is of step {step}"
    for name, (size, digest) in files.items():
        path = checkpoint.path / name
        if not path.exists():
            return f"{name} is missing"
        if path.stat().st_size != size or file_sha256(path) != digest:
            return f"{name} differs from its checksum"
    return None if STATE in files else f"{MANIFEST} does not list {STATE}"


def damage_of_best(checkpoint: Checkpoint) -> str | None:
    """What is wrong with the checkpoint of the best weights that an intact one refers to; None when nothing is, or it refers to none."""
    best = checkpoint.best
    problem = None if best is None else damage(best)
    return None if best is None or problem is None else f"the best weights so far are in {best.path.name}, where {problem}"


def newest_complete(folder: Path, *, with_best: bool = True) -> tuple[Checkpoint | None, list[str]]:
    """The newest intact checkpoint, and a line for each that was passed over. Reads all bytes of what it looks at.

    with_best: the checkpoint of the best weights that it refers to must be intact, too.
    """
    notes: list[str] = []
    for checkpoint in reversed(list_checkpoints(folder)):
        problem = damage(checkpoint) or (damage_of_best(checkpoint) if with_best else None)
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
    problem = damage(Checkpoint(path, 0))
    if problem is not None:
        raise ConfigError(f"trainer.resume={path}: the checkpoint is damaged: {problem}")
    return Checkpoint(path, int(json.loads((path / MANIFEST).read_text())["step"]))


def retain(folder: Path, *, current: int, limit: int, keep: set[int]) -> None:
    """Delete old checkpoints beyond `limit`.

    Never the one of step `current`, which has just been written and checksummed, nor those at the steps in `keep`. Those of later steps go in
    any case: the run was continued from before them, because they are damaged or an earlier one was asked for.
    """
    found = list_checkpoints(folder)
    later = [c for c in found if c.step > current]
    spare = [c for c in found if c.step < current and c.step not in keep]
    for checkpoint in [*later, *spare[: max(0, len(found) - len(later) - limit)]]:
        delete(checkpoint.path)


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
