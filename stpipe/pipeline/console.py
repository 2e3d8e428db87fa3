"""Messages of the stages to a person: plain lines on standard error, so that standard output stays for results."""

from __future__ import annotations

import sys
import time

from rich.console import Console


def console(mode: str = "auto") -> Console:
    """A console on standard error; quiet under progress=off. NO_COLOR is honoured by rich."""
    return Console(file=sys.stderr, quiet=mode == "off", highlight=False)


class Reporter:
    """Tells of slow work by plain lines: the first after `patience` seconds, then as often again.

    Called as reporter(what, done, total).
    """

    def __init__(self, out: Console, *, patience: float = 3.0) -> None:
        self.out = out
        self.patience = patience
        self._last = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= self.patience:
            self._last = now
            self.out.print(f"{what}: {done:,} of {total:,}" if total else what)
