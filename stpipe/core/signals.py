"""Signals as requests: save and leave (SIGTERM, SIGUSR1), or stop now (SIGINT).

Python runs a handler in the main thread between two of its instructions. What happens there depends on where the run is: in the steps
of training a request is only noted, because all processes must stop after the same step; elsewhere it is raised at once. Whatever the
main thread does, the process ends when the grace period is over.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

PREEMPTED, INTERRUPTED = 75, 130


class Preempted(BaseException):
    """A request to save and leave, raised where nothing has to be finished first. No Exception, so that no handler of errors swallows it."""


class Signals:
    """The requests to this process; a context manager, inside which they are heard. Without entering it nothing is ever requested.

    Args:
        preempt: names of the signals that ask to save and leave.
        grace: seconds from the first of them until the process ends in any case.
        raises: whether a request is raised outside `noted`; False where another process decides for this one.
        at_end: called with a state and its exit code (`preempted`, 75; `interrupted`, 130) before the process is ended by force, perhaps
            in another thread; returns the exit code.
    """

    def __init__(
        self,
        preempt: Sequence[str] = (),
        *,
        grace: float = 25.0,
        raises: bool = True,
        at_end: Callable[[str, int], int] = lambda state, code: code,
    ) -> None:
        self.preempt, self.grace, self.raises, self.at_end = tuple(preempt), grace, raises, at_end
        self.received: str | None = None
        self._noted = 0
        self._interrupted = False
        self._timer: threading.Timer | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # only there Python lets a signal be handled
            for name in self.preempt:
                self._previous[signal.Signals[name]] = signal.signal(signal.Signals[name], self._on_request)
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Inside, a request is noted in `received`, and whoever is inside acts on it."""
        self._noted += 1
        try:
            yield
        finally:
            self._noted -= 1

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, within `noted`, a request is raised after all: for what takes long and may be given up."""
        outer, self._noted = self._noted, 0
        try:
            self.check()
            yield
        finally:
            self._noted = outer

    def check(self) -> None:
        """Raise a request that was noted.

        Raises:
            Preempted: there is one.
        """
        if self.received is not None and self.raises and not self._noted:
            raise Preempted(self.received)

    def _on_request(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            return  # it is on its way
        self.received = signal.Signals(number).name
        self._timer = threading.Timer(self.grace, self._overdue)
        self._timer.daemon = True
        self._timer.start()
        self.check()

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            end_now(self.at_end("interrupted", INTERRUPTED))
        self._interrupted = True
        raise KeyboardInterrupt

    def _overdue(self) -> None:
        text = f"stpipe: {self.received}: the grace period of {self.grace:g} s (trainer.grace_period) is over; what was saved before stands"
        print(text, file=sys.stderr, flush=True)
        end_now(self.at_end("preempted", PREEMPTED))


def leave_to_parent(names: Sequence[str], worker: int = 0) -> None:
    """In a process that works for a run: requests are for the run; such a signal ends the worker only when the run itself sends it.

    A batch system sends a signal to every process that a job has. A loader's worker that ends by it would make the run fail
    while it saves, and one that inherited the run's own handlers would write the run's status.

    Args:
        names: of the signals.
        worker: number that a DataLoader gives, unused.
    """
    numbers = {signal.Signals[name] for name in names}
    if sys.platform != "linux":  # who sent a signal cannot be told there; nor are there batch systems
        for number in numbers - {signal.SIGTERM}:
            signal.signal(number, signal.SIG_IGN)
    elif numbers:
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        threading.Thread(target=_obey, args=(numbers, os.getppid()), name="stpipe-signals", daemon=True).start()


def _obey(numbers: set[signal.Signals], parent: int) -> None:
    """Take the signals one by one until one comes from the parent, which ends its workers so when it ends."""
    while signal.sigwaitinfo(numbers).si_pid != parent:
        pass
    os._exit(0)


def end_now(code: int) -> None:
    """End this process, whatever its threads are doing."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
