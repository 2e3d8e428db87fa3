"""Where each value of a composed configuration was set, so that every problem can say it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stpipe.config.redact import REDACTED, is_secret, scrub

Path = tuple[str | int, ...]


class Unresolved:
    """Stands for a value whose interpolation failed; that is one problem already, so the decoder asks nothing of it."""

    def __repr__(self) -> str:
        return "<unresolved>"

    def __deepcopy__(self, memo: object) -> Unresolved:
        return self


UNRESOLVED = Unresolved()


def dotted(path: Iterable[str | int]) -> str:
    """`("a", "b", 0, "c")` -> `a.b[0].c`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def at(values: Any, path: Path, default: Any = None) -> Any:
    """The value at a path; `default` when any part of the path is absent."""
    for part in path:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return default
    return values


def leaves(values: Any, path: Path = ()) -> Iterable[tuple[Path, Any]]:
    """All values that are not containers, and empty containers, with their paths."""
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from leaves(value, (*path, key))
    elif isinstance(values, list) and values:
        for i, value in enumerate(values):
            yield from leaves(value, (*path, i))
    else:
        yield path, values


@dataclass
class Origins:
    """Path -> `file:line` or override text, and path -> text of an interpolation that read the environment.

    The second map keeps secrets out of messages and files: such a value is only ever shown as it was written.
    """

    places: dict[Path, str] = field(default_factory=dict)
    from_environment: dict[Path, str] = field(default_factory=dict)

    def where(self, path: Path) -> str:
        """Origin of the value, else of the nearest thing around it; empty when nothing set it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return ""

    def shown(self, path: Path, value: Any) -> str:
        """The value as messages may show it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.from_environment:
                return self.from_environment[path[:end]]
        if isinstance(value, str) and any(isinstance(part, str) and is_secret(part) for part in path):
            return REDACTED
        text = scrub(repr(value))
        return text if len(text) <= 80 else text[:77] + "..."

    def drop(self, path: Path) -> None:
        """Forget everything at and below a path."""
        for known in [p for p in self.places if p[: len(path)] == path]:
            del self.places[known]
