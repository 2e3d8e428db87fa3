"""status.json: what a run is doing or how it ended, true at every moment."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stpipe.config.errors import PreemptedError
from stpipe.config.redact import scrub_values
from stpipe.core.signals import Preempted
from stpipe.reports.atomic import write_text

#: Bytes that are set aside for the last word of a run whose disk is full.
SPARE = 1 << 16
#: What ends a stage without being its failure.
STOPS = (Preempted, PreemptedError, KeyboardInterrupt)


class Status:
    """The state of a run on disk, rewritten whole (aside, then renamed) at each change.

    States: running, finished, failed, partial, preempted, interrupted. Those of a stage: running, finished, failed, stopped.
    """

    def __init__(self, path: Path, *, command: str, previous: dict[str, Any] | None = None) -> None:
        self.path = path
        self._lock = threading.Lock()  # the end of a grace period writes in a thread of its own
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
            "trained": None,
        }
        if previous is not None:
            self.data.update({k: previous[k] for k in ("started", "stages", "resumed", "step", "num_steps", "trained") if k in previous})

    def write(self, **changes: Any) -> None:
        """Change some members and write the file; errors and warnings may quote others, so no secret is written."""
        self.data.update(changes)
        with self._lock:
            self._put()

    def _put(self) -> None:
        write_text(self.path, self._text())

    def _text(self) -> str:
        return json.dumps(scrub_values(self.data), indent=1) + "\n"

    @contextmanager
    def stage(self, name: str, **facts: Any) -> Iterator[None]:
        """Record that a stage runs, and how it ended. facts: what is known of it, kept beside."""
        began = time.monotonic()

        def note(state: str) -> None:
            self.data["stages"][name] = {"state": state, "seconds": round(time.monotonic() - began, 3), **facts}
            self.write()

        note("running")
        try:
            yield
        except BaseException as error:
            with suppress(OSError):  # what made the stage fail is the news, not that the disk is full
                note("stopped" if isinstance(error, STOPS) else "failed")
            raise
        note("finished")

    def reserve(self) -> None:
        """Set room aside for `end`, so that a full disk cannot keep a run from saying how it ended."""
        with suppress(OSError), self._spare.open("wb") as file:
            file.write(b"\0" * SPARE)
            file.flush()
            os.fsync(file.fileno())

    @property
    def _spare(self) -> Path:
        return self.path.with_name(f".{self.path.name}.spare.tmp")

    def end(self, state: str, exit_code: int, error: str | None = None) -> None:
        """The last word; on a full disk written into the room that was set aside."""
        try:
            self.write(state=state, exit_code=exit_code, error=error, finished=time.time())
        except OSError:
            self._put_in_spare()
        finally:
            with suppress(OSError):
                self._spare.unlink(missing_ok=True)

    def _put_in_spare(self) -> None:
        with self._lock, self._spare.open("r+b") as file:
            file.write(self._text().encode())
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
            os.replace(self._spare, self.path)


class NoStatus(Status):
    """The status of a process that leaves writing to rank 0."""

    def _put(self) -> None:
        pass

    def reserve(self) -> None:
        pass

    def end(self, state: str, exit_code: int, error: str | None = None) -> None:
        self.write(state=state, exit_code=exit_code, error=error)


def amend_status(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the status of a run that is over; nothing where there is none, as in a copy of the model alone."""
    found = read_status(path)
    if found is not None:
        change(found)
        write_text(path, json.dumps(scrub_values(found), indent=1) + "\n")


def read_status(path: Path) -> dict[str, Any] | None:
    """The status in a run directory; None when there is none."""
    if not path.exists():
        return None
    return json.loads(path.read_text(encoding="utf-8"))
