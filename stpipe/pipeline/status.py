"""status.json: what a run is doing or how it ended, true at every moment."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stpipe.reports.atomic import write_text


class Status:
    """The state of a run on disk, rewritten whole (aside, then renamed) at each change.

    States: running, finished, failed, partial, preempted, interrupted.
    """

    def __init__(self, path: Path, *, command: str, previous: dict[str, Any] | None = None) -> None:
        self.path = path
        self.data: dict[str, Any] = {
            "state": "running",
            "exit_code": None,
            "step": 0,
            "num_steps": 0,
            "stages": {},
            "error": None,
            "warnings": [],
            "started": time.time(),
            "finished": None,
            "command": command,
            "pid": os.getpid(),
            "resumed": [],
        }
        if previous is not None:
            self.data.update({k: previous[k] for k in ("started", "stages", "resumed", "step", "num_steps")})

    def write(self, **changes: Any) -> None:
        """Change some members and write the file."""
        self.data.update(changes)
        write_text(self.path, json.dumps(self.data, indent=1) + "\n")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Record that a stage runs, and how it ended."""
        began = time.monotonic()
        self.data["stages"][name] = {"state": "running", "seconds": 0.0}
        self.write()
        state = "failed"
        try:
            yield
            state = "finished"
        finally:
            self.data["stages"][name] = {"state": state, "seconds": round(time.monotonic() - began, 3)}
            self.write()

    def end(self, state: str, exit_code: int, error: str | None = None) -> None:
        """The last word."""
        self.write(state=state, exit_code=exit_code, error=error, finished=time.time())


class NoStatus(Status):
    """The status of a process that leaves writing to rank 0."""

    def write(self, **changes: Any) -> None:
        self.data.update(changes)


def amend_status(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the status of a run that is over; nothing where there is none, as in a copy of the model alone."""
    found = read_status(path)
    if found is not None:
        change(found)
        write_text(path, json.dumps(found, indent=1) + "\n")


def read_status(path: Path) -> dict[str, Any] | None:
    """The status in a run directory; None when there is none."""
    if not path.exists():
        return None
    return json.loads(path.read_text(encoding="utf-8"))
