"""A thread that notices when another process of the run has failed or is gone, whatever the main thread is doing."""

from __future__ import annotations

import _thread
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

#: Seconds between heartbeats.
BEAT = 1.0
#: Seconds without a heartbeat after which a process counts as lost when there is another sign of it: a broken connection.
LOST_AFTER_ERROR = 6.0
#: Seconds between two looks of this thread from which on it was held up itself.
SLEPT = 4 * BEAT
#: Seconds that the main thread has to end by itself; then it is interrupted, and in the end the process is ended.
NOTICE, INTERRUPT = 5.0, 20.0
#: Environment variables of a launching process: its number, so that it can be missed, and a file in which it leaves a failure that only it
#: can know of: the signal by which a process was killed.
LAUNCHER, NEWS = "STPIPE_LAUNCHER_PID", "STPIPE_LAUNCHER_NEWS"

GONE = "no longer answers: it was killed, or its machine is gone. Continue with trainer.resume=auto"


@dataclass(frozen=True)
class Failure:
    """Why a process ended: its rank, who it was, the exit code of the contract, its message."""

    rank: int
    who: str
    exit_code: int
    message: str

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.who}): {self.message}"


class Watch:
    """Counts up this process's heartbeat in the store, and reads those of the others and the record of the first failure.

    Args:
        store: a connection of its own, because another thread's may be waiting.
        rank, size: of this process.
        lost_after: seconds without a heartbeat after which a process counts as lost.
    """

    def __init__(self, store: Any, *, rank: int, size: int, lost_after: float) -> None:
        self.store, self.rank, self.size, self.lost_after = store, rank, size, lost_after
        self.failure: Failure | None = None
        self.before_end: Callable[[Failure], None] | None = None
        self._key = "failure"
        self._lock = threading.Lock()
        self._beat = 0
        self._looked = time.monotonic()
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._left: set[int] = set()
        self._handled = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stpipe-watch", daemon=True)

    def start(self) -> None:
        """Begin; all processes have shown themselves in the store by now."""
        self._look()
        self._thread.start()

    def begin(self, job: str) -> None:
        """A further run in the same processes: failures of the one before do not concern it."""
        with self._lock:
            self._key, self.failure, self._handled = f"failure/{job}", None, False

    def record(self, failure: Failure) -> None:
        """Leave why this process ends for all others; the first record stays."""
        with self._lock:
            self._handled = True
            try:
                self.store.compare_set(self._key, "", json.dumps(asdict(failure)))
            except RuntimeError:  # whoever has the store is gone, and will be missed by its heartbeat
                return

    def blame(self, patience: float | None = None) -> Failure | None:
        """The failure that explains a broken connection; waits until it is known, at most a little longer than that takes."""
        self._handled = True
        deadline = time.monotonic() + (LOST_AFTER_ERROR + 3 * BEAT if patience is None else patience)
        while True:
            with self._lock:
                if self.failure is None:
                    self._look(LOST_AFTER_ERROR)
                if self.failure is not None or time.monotonic() > deadline:
                    return self.failure
            time.sleep(BEAT / 4)

    def leave(self, *, wait: float) -> None:
        """This process ends now; `wait`: seconds to stay for others that have not left, who need its store."""
        self._handled = True
        self._stop.set()
        deadline = time.monotonic() + wait
        others = [r for r in range(self.size) if r != self.rank]
        try:
            self.store.set(f"left/{self.rank}", "1")
            while wait and time.monotonic() < deadline and not all(self._has_left(r) or self._silent(r) > LOST_AFTER_ERROR for r in others):
                time.sleep(0.05)
        except RuntimeError:
            return

    def taken(self) -> None:
        """The main thread knows of the failure and ends by itself."""
        self._handled = True

    def who(self, rank: int) -> str:
        """Process number and host of a rank, as far as known."""
        try:
            return str(self.store.get(f"who/{rank}").decode())
        except RuntimeError:
            return "unknown"

    def _has_left(self, rank: int) -> bool:
        if rank not in self._left and self.store.check([f"left/{rank}"]):
            self._left.add(rank)
        return rank in self._left

    def _silent(self, rank: int) -> float:
        """Seconds since a process's heartbeat was seen to change."""
        seen = self._seen.get(rank)
        return 0.0 if seen is None else time.monotonic() - seen[1]

    def _run(self) -> None:
        ended: Failure | None = None
        while not self._stop.wait(BEAT):
            with self._lock:
                self._look()
            if self.failure is not None and self.failure is not ended:
                ended = self.failure
                self._end(ended)

    def _look(self, lost_after: float | None = None) -> None:
        """Show that this process lives, and see how the others are."""
        lost_after = self.lost_after if lost_after is None else lost_after
        now = time.monotonic()
        slept = now - self._looked - SLEPT
        self._looked = now
        if slept > 0:  # this process was held up, and the others perhaps with it: a machine that was asleep, a debugger
            self._seen = {rank: (beat, since + slept) for rank, (beat, since) in self._seen.items()}
        self.failure = self.failure or self._told_by_launcher()
        try:
            self._beat += 1
            self.store.set(f"beat/{self.rank}", str(self._beat))
            if self.failure is not None:
                return
            if self.store.check([self._key]):
                self.failure = Failure(**json.loads(self.store.get(self._key)))
                return
            others = [r for r in range(self.size) if r != self.rank and r not in self._left]
            started = [r for r in others if r in self._seen or self.store.check([f"beat/{r}"])]
            beats = self.store.multi_get([f"beat/{r}" for r in started]) if started else []
        except RuntimeError:  # the store is gone, and whoever had it
            self.failure = self.failure or Failure(0, "it held the store", 1, GONE)
            return
        for rank, beat in zip(started, beats, strict=True):
            if rank not in self._seen or self._seen[rank][0] != beat:
                self._seen[rank] = (beat, now)
            elif now - self._seen[rank][1] > lost_after and not self._has_left(rank):
                self.failure = Failure(rank, self.who(rank), 1, GONE)
                return

    def _told_by_launcher(self) -> Failure | None:
        launcher, news = os.environ.get(LAUNCHER), os.environ.get(NEWS)
        if launcher is not None and os.getppid() != int(launcher):
            return Failure(self.rank, f"pid {os.getpid()}", 1, "the process that launched it is gone")
        if news is not None and os.path.exists(news):
            with open(news, encoding="utf-8") as file:
                return Failure(**json.load(file))
        return None

    def _end(self, failure: Failure) -> None:
        """End this process: the main thread by itself, else interrupted, else without it."""
        for seconds, act in ((NOTICE, _thread.interrupt_main), (INTERRUPT, lambda: self._abort(failure))):
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if self._handled or self._stop.is_set():
                    return
                time.sleep(0.1)
            act()

    def _abort(self, failure: Failure) -> None:
        if self.before_end is not None:
            self.before_end(failure)
        print(f"stpipe: {failure}", file=sys.stderr, flush=True)
        os._exit(failure.exit_code)
