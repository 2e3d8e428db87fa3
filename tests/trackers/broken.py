"""Trackers of a user that write what they get into a file, and fail or hang where they are told to.

`where` names a call (connect, log, upload, finish), `how` what happens there; `until` is the number of attempts after which it works.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stpipe.config.fields import option
from stpipe.config.registry import TRACKERS
from stpipe.trackers import Ending, Memory, Record, Session, TrackedRun, Tracker
from stpipe.trackers.base import Artifacts


@TRACKERS.register("broken")
@dataclass(frozen=True)
class BrokenTracker(Tracker):
    """Writes lines of JSON into `file`."""

    file: str = option(help="Where to.")
    where: str = option("nowhere", help="connect, log, upload, finish or nowhere.")
    how: str = option("raise", help="raise, hang or die.")
    until: int = option(10**9, help="Attempts that fail.")
    api_key: str = option("", help="A secret.")

    @property
    def keeps(self) -> Artifacts:
        return "model"

    def connect(self, run: TrackedRun, memory: Memory) -> Session:
        memory.id = memory.id or memory.uid
        memory.save()
        self.reach("connect", memory)
        self.write({"connect": memory.id, "name": run.name, "sweep": None if run.sweep is None else run.sweep.name})
        return BrokenSession(self, memory)

    def reach(self, where: str, memory: Memory) -> None:
        """Fail where that is asked for."""
        if where != self.where:
            return
        memory.notes["attempts"] = memory.notes.get("attempts", 0) + 1
        if memory.notes["attempts"] > self.until:
            return
        if self.how == "hang":
            time.sleep(10**6)
        if self.how == "die":
            os._exit(41)
        raise ConnectionError(f"no answer from http://user:hunter2@host to {self.api_key}")

    def write(self, found: Mapping[str, object]) -> None:
        with Path(self.file).open("a") as file:
            file.write(json.dumps(found) + "\n")


class BrokenSession(Session):
    def __init__(self, tracker: BrokenTracker, memory: Memory) -> None:
        self.tracker, self.memory = tracker, memory

    def log(self, records: Sequence[Record]) -> None:
        self.tracker.reach("log", self.memory)
        for record in records:
            self.tracker.write({"key": record.key, "step": record.step, "value": record.value})

    def upload(self, files: Mapping[str, Path], *, model: bool, done: Callable[[str], None]) -> None:
        self.tracker.reach("upload", self.memory)
        for name in files:
            self.tracker.write({"file": name, "model": model})
            done(name)

    def finish(self, ending: Ending) -> None:
        self.tracker.reach("finish", self.memory)
        self.tracker.write({"ending": ending.state, "exit_code": ending.exit_code})


def read(file: Path) -> list[dict]:
    """What was written."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def series(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Series -> (step, value), in the order of arrival."""
    found: dict[str, list[tuple[int, float]]] = {}
    for entry in read(file):
        if "key" in entry:
            found.setdefault(entry["key"], []).append((entry["step"], entry["value"]))
    return found
