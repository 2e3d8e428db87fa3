"""metrics.jsonl: what was measured at which step. A run that was killed leaves a broken last line, a resumed one repeats steps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """One line of metrics.jsonl. `time` is in seconds since 1970, None where it was not recorded."""

    step: int
    epoch: float
    split: str
    name: str
    value: float
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """Value of a series at one step; NaN and infinities stand as they were logged."""

    step: int
    epoch: float
    value: float


@dataclass(frozen=True)
class MetricsLog:
    """All records in the order of the file, and how many lines could not be read."""

    records: tuple[Record, ...] = ()
    broken: int = 0

    def names(self, split: str) -> tuple[str, ...]:
        """Names logged for a split, in order of first appearance."""
        return tuple(dict.fromkeys(r.name for r in self.records if r.split == split))

    def series(self, name: str, *, split: str = "train") -> tuple[Point, ...]:
        """Points by rising step. A resumed run logs steps again: the last record of a step is the one that counts."""
        latest = {r.step: r for r in self.records if r.name == name and r.split == split}
        return tuple(Point(r.step, r.epoch, r.value) for _, r in sorted(latest.items()))

    def finite(self, name: str, *, split: str = "train") -> tuple[Point, ...]:
        """The series without NaN and infinities."""
        return tuple(p for p in self.series(name, split=split) if math.isfinite(p.value))

    def epochs(self) -> dict[int, float]:
        """Step -> epoch, from whatever was logged last at that step."""
        return dict(sorted({r.step: r.epoch for r in self.records}.items()))


def read_metrics(path: Path) -> MetricsLog:
    """Read metrics.jsonl; a missing file is an empty log, a line that is not a record is counted and left out."""
    if not path.is_file():
        return MetricsLog()
    with path.open(encoding="utf-8", errors="replace") as lines:
        parsed = [_record(line) for line in lines if line.strip()]
    records = tuple(r for r in parsed if r is not None)
    return MetricsLog(records, len(parsed) - len(records))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a .jsonl file; broken lines are left out."""
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as lines:
            yield from _objects(lines)


def _objects(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def _record(line: str) -> Record | None:
    try:
        raw = json.loads(line)
        value = math.nan if raw["value"] is None else float(raw["value"])
        time = raw.get("time")
        return Record(
            step=int(raw["step"]),
            epoch=float(raw.get("epoch") or 0.0),
            split=str(raw["split"]),
            name=str(raw["name"]),
            value=value,
            time=float(time) if isinstance(time, int | float) else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
