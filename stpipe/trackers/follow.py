"""Following a run: sends what its directory holds to a tracker, now and again until it is over.

A tracker is a reader of the run directory in a process of its own, not a callback. So nothing that its library does can touch the run:
not an exception, not a call that never returns, not an exit handler that waits for a server, not a lock that a forked data worker
inherits. metrics.jsonl is the queue between them, and sending the rest later is the same code once more.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from stpipe.config.redact import scrub
from stpipe.trackers.base import Ending, Memory, Session, TrackedRun, Tracker, kept_files, model_files
from stpipe.trackers.records import Record, Tail

#: Seconds between looks at the file; between attempts after a failure, which grow up to the second number.
POLL = 1.0
RETRY = (2.0, 60.0)
#: Records that are sent at a time, and that are read ahead while a tracker does not take them.
BATCH, AHEAD = 500, 5000
#: Attempts once the run is over.
LAST_ATTEMPTS = 3


class Follower:
    """One tracker of one run.

    Args:
        tracker: what the configuration says.
        run: what is followed.
        memory: of this tracker about this run.
        over: set when nobody writes into the run directory any more.
        secrets: values that must not appear in what is written about failures.
        log: takes the traceback of a failure.
    """

    def __init__(
        self,
        tracker: Tracker,
        run: TrackedRun,
        memory: Memory,
        over: threading.Event,
        *,
        secrets: Iterable[str] = (),
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.tracker, self.run, self.memory, self.over = tracker, run, memory, over
        self.secrets, self.log = tuple(secrets), log
        self.tail = Tail(run.folder / "metrics.jsonl")
        self.waiting: list[Record] = []
        self.session: Session | None = None
        self._seen: set[str] = set()

    def follow(self) -> bool:
        """Follow until the run is over; whether the tracker has everything."""
        self.memory.state, self.memory.ended = "running", None
        self.memory.save()
        pause, attempts = POLL, 0
        while True:
            over = self.over.is_set()  # before the look: what was written before it was set is seen
            try:
                self.catch_up(self.session or self.open())
                if over:
                    self.conclude()
                    return True
                pause = POLL
            except Exception as error:
                self.failed(error)
                pause = min(max(2 * pause, RETRY[0]), RETRY[1])
                attempts += over
                if attempts >= LAST_ATTEMPTS:
                    return False
                if over:
                    time.sleep(RETRY[0])
            self.over.wait(pause)

    def open(self) -> Session:
        """Connect, or connect again."""
        self.session = self.tracker.connect(self.run, self.memory)
        self._seen = set()
        return self.session

    def catch_up(self, session: Session) -> None:
        """Send all records that the tracker does not have yet."""
        while True:
            if len(self.waiting) < AHEAD:
                self.waiting += self.tail.read()
            if not self.waiting:
                break
            batch = self.waiting[:BATCH]
            new, last = self.unsent(session, batch)
            if new:
                session.log(new)
                self.memory.sent.update(last)
            del self.waiting[: len(batch)]
            self.memory.save()
        if self.memory.state == "behind":
            self.memory.state, self.memory.error = "running", None
            self.memory.save()

    def unsent(self, session: Session, batch: Sequence[Record]) -> tuple[list[Record], dict[str, int]]:
        """Records that the tracker does not have, and the last step of each of their series. A continued run logs some steps again, to the same values."""
        new: list[Record] = []
        last: dict[str, int] = {}
        for record in batch:
            key = record.key
            if key not in self._seen:
                self._seen.add(key)
                known = session.last_step(key)
                if known is not None:
                    self.memory.sent[key] = max(known, self.memory.sent.get(key, -1))
            if record.step > last.get(key, self.memory.sent.get(key, -1)):
                new.append(record)
                last[key] = record.step
        return new, last

    def conclude(self) -> None:
        """Upload files, say how the run ended."""
        session = self.session
        assert session is not None
        self.upload(session, kept_files(self.run.folder, self.tracker.keeps), model=False)
        if self.tracker.keeps_model:
            self.upload(session, model_files(self.run.folder), model=True)
        ending = Ending.of(self.run.folder)
        session.finish(ending)
        self.session = None
        self.memory.state, self.memory.ended, self.memory.error = "finished", ending.state, None
        self.memory.save()

    def upload(self, session: Session, files: Mapping[str, Path], *, model: bool) -> None:
        """Files that the tracker does not have as they are now."""
        now = {name: [path.stat().st_size, path.stat().st_mtime_ns] for name, path in files.items()}
        new = {name: files[name] for name, found in now.items() if self.memory.files.get(name) != found}

        def done(name: str) -> None:
            self.memory.files[name] = now[name]
            self.memory.save()

        if new:
            session.upload(new, model=model, done=done)

    def failed(self, error: Exception) -> None:
        """Remember a failure; the next attempt starts with a new connection."""
        self.session = None
        self.log(scrub("".join(traceback.format_exception(error)), self.secrets))
        self.memory.behind(scrub(f"{type(error).__name__}: {error}", self.secrets))
