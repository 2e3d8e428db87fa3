"""The run directory: who may write there, and what lies where."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stpipe.config.errors import ConfigError, Problem
from stpipe.pipeline.identity import differences, identity, listed, refused
from stpipe.pipeline.status import Status, read_status

#: How names of folders begin that are made to see whether a place can be written.
SCRATCH = ".stpipe-"


@dataclass(frozen=True)
class RunDirectory:
    """Places inside one run directory."""

    path: Path

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    @property
    def exports(self) -> Path:
        return self.path / "exports"

    @property
    def mining(self) -> Path:
        return self.path / "mining"

    @property
    def rounds(self) -> Path:
        return self.path / "rounds"

    def round(self, number: int) -> Path:
        """Directory of a part of the training, under iterated mining."""
        return self.rounds / str(number)

    def saved_config(self) -> dict[str, Any]:
        return yaml.safe_load(self.config.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Claim:
    """What a new command may do with a run directory. `mode`: "fresh", "resume" or "finished"."""

    mode: str
    status: dict[str, Any] | None = None


def claim(directory: RunDirectory, values: dict[str, Any], *, touch: bool = True) -> Claim:
    """Decide between a fresh run, a resumed one and one that is already finished; refuse everything else.

    Leaves everything as it is: what is replaced under run.overwrite goes when the run starts, after all checks.

    Args:
        directory: of the run.
        values: the configuration, as config.yaml would hold it.
        touch: try to write; False only looks, for a dry run.

    Raises:
        ConfigError: the directory cannot be written, holds a run or other files, or a run with another configuration.
    """
    path, resume = directory.path, values["trainer"]["resume"]
    (check_writable if touch else check_looks_writable)(path)
    held = [p for p in path.iterdir() if not is_scratch(p)] if path.exists() else []
    if not held or values["run"]["overwrite"]:
        return Claim("fresh")
    status = read_status(directory.status)
    if status is None and held == [directory.rounds]:
        if resume == "auto":
            return Claim("fresh")  # its first parts are there, and continue where they were
        what = f"{path} holds the first rounds of a run. Use trainer.resume=auto to continue it, or run.overwrite=true to replace it."
        raise ConfigError(Problem("run.dir", what))
    if status is None:
        raise ConfigError(
            Problem("run.dir", f"{path} holds files but no run. Choose another run.dir, or run.overwrite=true to replace them.")
        )
    if resume == "never":
        raise ConfigError(
            Problem(
                "run.dir",
                f"{path} holds a run (state {status['state']}, step {status['step']} of {status['num_steps']}). "
                "Use trainer.resume=auto to continue it, run.overwrite=true to replace it, or another run.name.",
            )
        )
    if not directory.config.exists():
        return Claim("fresh")  # killed at its very start: the status is the first file
    changed = refused(differences(identity(directory.saved_config()), identity(values)), values["trainer"]["resume_allow"])
    if changed:
        what = f"the run in {path} has another configuration:\n{listed(changed, place='run')}\nUse these values, or another run.name."
        raise ConfigError(Problem("trainer.resume", what))
    return Claim("finished" if status["state"] == "finished" and resume == "auto" else "resume", status)


def is_scratch(path: Path) -> bool:
    """Whether it is what a killed process left of a file that it was writing aside, or of a look whether it may write at all."""
    return path.name.startswith(SCRATCH) or (path.name.startswith(".") and path.name.endswith(".tmp"))


def existing_part(path: Path) -> Path:
    """The path, or the nearest thing above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def check_looks_writable(path: Path, *, key: str = "run.dir") -> None:
    """The same as `check_writable` without touching anything: a file without a name changes no directory.

    Where the file system has no such files, permissions decide, and whether it has any room at all (/proc has none).
    """
    place = existing_part(path)
    reason = None if place.is_dir() else f"{place} is a file"
    try:
        if reason is None:
            os.close(os.open(place, os.O_RDWR | getattr(os, "O_TMPFILE", os.O_CREAT), 0o600))
    except OSError as error:
        unknown = error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
        if not unknown or not os.access(place, os.W_OK | os.X_OK) or os.statvfs(place).f_blocks == 0:
            reason = error.strerror
    if reason is not None:
        raise ConfigError(Problem(key, f"{path} cannot be written: {reason}. Choose another {key}."))


def check_writable(path: Path, *, key: str = "run.dir") -> None:
    """Refuse a directory, named by a key, that could not be made or written, without leaving anything behind."""
    place = existing_part(path)
    try:
        if not place.is_dir():
            raise NotADirectoryError(20, f"{place} is a file")
        with tempfile.TemporaryDirectory(dir=place, prefix=SCRATCH):
            pass
    except OSError as error:
        raise ConfigError(Problem(key, f"{path} cannot be written: {error.strerror or error}. Choose another {key}.")) from error


def start_fresh(directory: RunDirectory, *, overwrite: bool) -> None:
    """Make the directory with a status, replacing what was there when that was asked for."""
    if overwrite and directory.path.exists():
        shutil.rmtree(directory.path)
    directory.path.mkdir(parents=True, exist_ok=True)
    # The first of all files: a directory that has it can be continued, wherever the run is killed.
    Status(directory.status, command="").write()
