"""The run directory: who may write there, and what lies where."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stpipe.config.errors import ConfigError, Problem
from stpipe.pipeline.identity import differences, identity
from stpipe.pipeline.status import read_status


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


def claim(directory: RunDirectory, values: dict[str, Any]) -> Claim:
    """Decide between a fresh run, a resumed one and one that is already finished; refuse everything else.

    Touches nothing: what is replaced under run.overwrite goes when the run starts, after all checks.

    Raises:
        ConfigError: the directory cannot be written, holds a run or other files, or a run with another configuration.
    """
    path, resume = directory.path, values["trainer"]["resume"]
    check_writable(path)
    if not path.exists() or not any(path.iterdir()) or values["run"]["overwrite"]:
        return Claim("fresh")
    status = read_status(directory.status)
    if status is None and list(path.iterdir()) == [directory.rounds]:
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
    changed = differences(identity(directory.saved_config()), identity(values))
    if changed:
        lines = "\n".join(f"  {key}: {old!r} in the run, {new!r} now" for key, old, new in changed)
        raise ConfigError(
            Problem("trainer.resume", f"the run in {path} has another configuration:\n{lines}\nUse these values, or another run.name.")
        )
    return Claim("finished" if status["state"] == "finished" and resume == "auto" else "resume", status)


def check_writable(path: Path, *, key: str = "run.dir") -> None:
    """Refuse a directory, named by a key, that could not be made or written, without leaving anything behind."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        if not place.is_dir():
            raise NotADirectoryError(20, f"{place} is a file")
        with tempfile.TemporaryDirectory(dir=place, prefix=".stpipe-"):
            pass
    except OSError as error:
        raise ConfigError(Problem(key, f"{path} cannot be written: {error.strerror or error}. Choose another {key}.")) from error


def start_fresh(directory: RunDirectory, *, overwrite: bool) -> None:
    """Make the directory, replacing what was there when that was asked for."""
    if overwrite and directory.path.exists():
        shutil.rmtree(directory.path)
    directory.path.mkdir(parents=True, exist_ok=True)
