"""What every fuzzed call must keep to: an end in time, and errors that are ours and say where."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

#: Seconds after which a call hangs; far more than any takes on a busy machine.
PATIENCE = 60.0


class HangError(BaseException):
    """Not an Exception, so that nothing in between takes it for an error of its own."""


@contextmanager
def in_time(what: Callable[[], str], seconds: float = PATIENCE) -> Iterator[None]:
    """Inside, work that does not end is broken off. Main thread only."""

    def stop(number: int, frame: Any) -> None:
        raise HangError(f"no end after {seconds:.0f} s: {what()}")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(check: Callable[[Any], None], cases: SearchStrategy[Any], examples: int, *, seed: int | None = None) -> None:
    """Call `check` with so many cases; always the same ones unless a seed is given."""
    run = given(cases)(check)
    if seed is not None:
        run = hypothesis.seed(seed)(run)
    chosen = {"max_examples": examples, "deadline": None, "database": None, "print_blob": False, "suppress_health_check": list(HealthCheck)}
    settings(**chosen, derandomize=seed is None)(run)()
