"""metrics.jsonl: every number of a run, one record a line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from stpipe.engine.callbacks.base import Callback

if TYPE_CHECKING:
    from stpipe.engine.loop import Trainer


class MetricsLog(Callback):
    """Append training and evaluation values to metrics.jsonl; on resume drop records of steps that are done again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def on_train_start(self, trainer: Trainer) -> None:
        drop_records_after(self.path, trainer.state.step)
        self._file = self.path.open("a", encoding="utf-8")

    def on_log(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        self._write(trainer.state.step, trainer.epoch, "train", values)

    def on_evaluate(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        self._write(trainer.state.step, trainer.epoch, "eval", metrics)

    def on_checkpoint(self, trainer: Trainer) -> None:
        if self._file is not None:
            self._file.flush()

    def on_train_end(self, trainer: Trainer) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        if self._file is not None:
            write_records(self._file, step=step, epoch=epoch, split=split, values=values)


def write_records(file: TextIO, *, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
    """One line a value, in the contract's fields; flushed, so that a killed run keeps what it logged."""
    now = round(time.time(), 3)
    for name, value in values.items():
        file.write(json.dumps({"step": step, "epoch": round(epoch, 6), "split": split, "name": name, "value": value, "time": now}) + "\n")
    file.flush()


def drop_records_after(path: Path, step: int) -> None:
    """Remove records beyond `step` and a last line that was cut off, so that a resumed run logs each step once."""
    drop_records(path, lambda record: record["step"] > step)


def drop_records(path: Path, unwanted: Callable[[dict[str, Any]], bool]) -> None:
    """Remove some records, and a last line that was cut off with what follows it."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if not unwanted(json.loads(line)):
                kept.append(line + "\n")
        except ValueError:
            break
    aside = path.with_suffix(".tmp")
    aside.write_text("".join(kept), encoding="utf-8")
    aside.replace(path)


def has_records(path: Path, *, step: int, split: str) -> bool:
    """Whether something was logged of a step and a split."""
    if not path.exists():
        return False
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                return False
            if record["step"] == step and record["split"] == split:
                return True
    return False
