"""Messages of the stages to a person: plain lines on standard error, so that standard output stays for results."""

from __future__ import annotations

import sys

from rich.console import Console


def console(mode: str = "auto") -> Console:
    """A console on standard error; quiet under progress=off. NO_COLOR is honoured by rich."""
    return Console(file=sys.stderr, quiet=mode == "off", highlight=False)
