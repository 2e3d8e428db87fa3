"""Errors that carry the exit code of the contract and everything a user needs to act on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class StpipeError(Exception):
    """Base of all errors that stpipe raises for its users; `exit_code` is what the command returns."""

    exit_code = 1


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a configuration.

    `key` is the full key path, `message` says what was found, what was expected and the fix, `where` is
    `file:line` or the text of the command line override that set the key (empty when nothing set it).
    """

    key: str
    message: str
    where: str = ""

    def __str__(self) -> str:
        place = f"  [{self.where}]" if self.where else ""
        return f"{self.key}: {self.message}{place}" if self.key else f"{self.message}{place}"


class ConfigError(StpipeError):
    """Something in the configuration is wrong, or names what does not exist or cannot be reached (exit 2)."""

    exit_code = 2

    def __init__(self, problems: str | Problem | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = (Problem("", problems),)
        elif isinstance(problems, Problem):
            problems = (problems,)
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


class UnreachableError(ConfigError):
    """A model or data set can be neither downloaded nor found in a local cache (exit 2).

    asset: its name as it was given; found: what was tried and what came back; key: configuration key that named it.
    """

    def __init__(self, asset: str, found: str, *, key: str = "", command: str | None = "+profile=offline") -> None:
        self.asset = asset
        self.found = found
        self.key = key
        ways = f"Connect, correct the name, or run on the embedded model and data: {command}" if command else "Connect, or correct the name"
        super().__init__(Problem(key, f"{found}. {ways}"))

    def with_command(self, command: str | None) -> UnreachableError:
        """The same error with the whole command that runs without the asset in place of the profile; None names no way around."""
        return UnreachableError(self.asset, self.found, key=self.key, command=command)


class DataError(StpipeError):
    """The content of data is wrong: a bad row, nothing at all, an unknown column, a label out of range (exit 3)."""

    exit_code = 3


class TrainingError(StpipeError):
    """A failure once training began: out of memory, full disk, NaN, a lost rank (exit 1)."""

    exit_code = 1


class PartialError(StpipeError):
    """The weights are safe, but a later stage failed (exit 5). remedy: what finishes it, where that is not the command once more."""

    exit_code = 5

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        self.remedy = remedy
        super().__init__(message)


class PreemptedError(StpipeError):
    """A signal asked the run to save and leave; it goes on where it stopped (exit 75, which schedulers take for: start me again)."""

    exit_code = 75


class MissingExtraError(ConfigError):
    """An optional dependency is needed; the message names the extra that brings it (exit 2)."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}'. Install it with: pip install 'stpipe[{extra}]'")
