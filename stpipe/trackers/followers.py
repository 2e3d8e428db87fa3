"""The run's side of its trackers: starts their processes, hears how they fare, and waits for them in the end, but not for ever."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stpipe.config.sweep import Sweep
from stpipe.trackers.base import Memory
from stpipe.trackers.process import TAKEN

ENTRY = "stpipe.trackers.process"
#: Seconds between looks while the end waits.
LOOK = 0.05


@dataclass
class _Following:
    """One process. seen: modification time of its memory when it was last looked at; since: when that changed."""

    name: str
    timeout: float
    memory: Path
    popen: subprocess.Popen[bytes] | None
    error: str | None = None
    seen: int = 0
    since: float = field(default_factory=time.monotonic)
    told: bool = False

    def changed(self) -> bool:
        """Whether it did something since the last look."""
        try:
            now = self.memory.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        if now == self.seen:
            return False
        self.seen, self.since = now, time.monotonic()
        return True

    @property
    def running(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    @property
    def state(self) -> str:
        """`finished` or `behind`, once the process has ended."""
        return "finished" if self.popen is not None and self.popen.returncode == 0 else "behind"

    def kill(self) -> None:
        """End it and whatever it has started."""
        if self.popen is not None and self.running:
            os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()


class Followers:
    """The trackers of a run, none of which can fail it. Without trackers it does nothing.

    Args:
        folder: run directory.
        trackers: name -> decoded component.
        config: configuration as config.yaml holds it.
        imports: modules of the user.
        sweep: that the run is a job of.
        offline: whether the run asks no hub.
        owner: process that computes the run; None when it is over.
    """

    def __init__(
        self,
        folder: Path,
        trackers: Mapping[str, Mapping[str, Any]],
        *,
        config: Mapping[str, Any] | None = None,
        imports: Sequence[str] = (),
        sweep: Sweep | None = None,
        offline: bool = False,
        owner: int | None = None,
    ) -> None:
        self.folder = folder
        job = {
            "folder": str(folder.absolute()),
            "config": config,
            "imports": list(imports),
            "sweep": None if sweep is None else sweep.as_json(),
            "offline": offline,
            "owner": owner,
        }
        self._all = [self._start(name, values, {**job, "name": name, "values": values}) for name, values in trackers.items()]

    def _start(self, name: str, values: Mapping[str, Any], job: Mapping[str, Any]) -> _Following:
        found = _Following(name, float(values["timeout"]), Memory.place(self.folder, name), None)
        found.changed()
        try:
            found.popen = subprocess.Popen(
                [sys.executable, "-m", ENTRY],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt at the terminal is for the run; and it can be ended with all that it starts
            )
            assert found.popen.stdin is not None
            found.popen.stdin.write(json.dumps(job).encode() + b"\n")
            found.popen.stdin.flush()
        except OSError as error:
            found.error = f"{type(error).__name__}: {error}"
        return found

    def news(self) -> list[str]:
        """What went wrong since the last call, once a tracker. Costs a look at the time of a file for each tracker."""
        found = []
        for following in self._all:
            if not following.told and (following.changed() or following.error):
                error = following.error or Memory.load(following.memory).error
                if error is not None:
                    following.told = True
                    found.append(
                        f"tracker '{following.name}': {error}. The run goes on and metrics.jsonl has everything; it is tried again until the end"
                    )
        return found

    def close(self, notify: Callable[[str], None] = lambda text: None) -> dict[str, str]:
        """Nobody writes into the run directory any more: wait for each tracker as long as it makes progress.

        An interrupt ends the wait.

        Returns:
            name -> `finished`, or `behind` for one that does not have everything.
        """
        for following in self._all:
            self._say_over(following)
            following.since = time.monotonic()
        try:
            while any(self._worth_waiting(following) for following in self._all):
                time.sleep(LOOK)
        except KeyboardInterrupt:
            pass
        for following in self._all:
            if following.running:
                following.kill()
                self._note(following, f"no progress in {following.timeout:.0f} s at the end of the run")
            elif following.popen is None or following.popen.returncode not in (0, 1):
                self._note(following, self._how_it_ended(following))
            if following.state == "behind":
                error = Memory.load(following.memory).error or following.error
                notify(f"tracker '{following.name}' does not have everything ({error}). Send the rest with: stpipe track {self.folder}")
        return {following.name: following.state for following in self._all}

    @staticmethod
    def _say_over(following: _Following) -> None:
        pipe = following.popen.stdin if following.popen is not None else None
        if pipe is not None:
            try:
                pipe.write(b"over\n")
                pipe.close()
            except OSError:  # it has ended already, which is seen later
                pass

    @staticmethod
    def _worth_waiting(following: _Following) -> bool:
        following.changed()
        return following.running and time.monotonic() - following.since < following.timeout

    @staticmethod
    def _how_it_ended(following: _Following) -> str:
        if following.popen is None:
            return following.error or "its process could not be started"
        if following.popen.returncode == TAKEN:
            return "another process follows this run for it"
        return f"its process ended with code {following.popen.returncode}"

    @staticmethod
    def _note(following: _Following, error: str) -> None:
        following.error = error
        if following.popen is not None and following.popen.returncode == TAKEN:
            return  # the file is the other one's
        with contextlib.suppress(OSError):  # a full disk must not fail a run that is over
            Memory.load(following.memory).behind(error)
