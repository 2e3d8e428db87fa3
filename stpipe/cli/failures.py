"""How a failed command ends: problems one by one for a user's mistake, a traceback with our frames first for ours."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from stpipe.cli.offline_command import offline_command
from stpipe.config.errors import ConfigError, Problem, StpipeError, UnreachableError
from stpipe.config.redact import redact_command, scrub

PACKAGE = Path(__file__).resolve().parent.parent
FAILURE = 1


def stderr() -> Console:
    """Console on standard error that neither wraps nor guesses at markup; rich honours NO_COLOR and pipes."""
    return Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def report_failure(error: BaseException, *, command: Sequence[str] = (), debug: bool = False) -> int:
    """Print an error and return the exit code that it stands for.

    Args:
        error: what was raised.
        command: verb, overrides and flags that were run; an asset that cannot be reached is answered with the same ones offline.
        debug: open the debugger where it was raised.
    """
    if isinstance(error, UnreachableError) and command:
        error = error.with_command(offline_command(command, error.asset)).with_traceback(error.__traceback__)
    if isinstance(error, StpipeError) and not debug:
        print_problems(error)
        return error.exit_code
    print_traceback(error)
    if debug:
        import pdb

        pdb.post_mortem(error.__traceback__)
    return error.exit_code if isinstance(error, StpipeError) else FAILURE


def print_problems(error: StpipeError) -> None:
    """Each problem on a line of its own: key, message, place."""
    problems = error.problems if isinstance(error, ConfigError) else (Problem("", str(error)),)
    out = stderr()
    if len(problems) > 1:
        out.print(Text(f"stpipe: {len(problems)} problems", style="bold red"))
    for problem in problems:
        line = Text("stpipe: " if len(problems) == 1 else "  ", style="bold red")
        if problem.key:
            line.append(f"{scrub(problem.key)}: ", style="bold")
        line.append(scrub(problem.message), style="default")
        if problem.where:
            line.append(f"  [{redact_command([problem.where])[0]}]", style="cyan")
        out.print(line)


def print_traceback(error: BaseException) -> None:
    """Where in stpipe it happened, innermost first, then the whole traceback."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if PACKAGE in Path(f.filename).resolve().parents]
    out = stderr()
    out.print(scrub("".join(traceback.format_exception(error)).rstrip()))
    out.print(Text(scrub(f"stpipe: unexpected {type(error).__name__}: {error}"), style="bold red"))
    for frame in reversed(frames):
        out.print(f"  in {frame.name}, {Path(frame.filename).relative_to(PACKAGE.parent)}:{frame.lineno}")
    out.print("This is a defect of stpipe, or of a package it uses. `stpipe doctor` prints what a report needs; --pdb opens the debugger.")
    sys.stderr.flush()
