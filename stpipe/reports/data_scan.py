"""The scan of the data (data.json) as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ScanRow:
    """Lengths of one role's texts in tokens; truncated: share of texts cut at the limit."""

    source: str
    role: str
    texts: int | None
    median: float | None
    p95: float | None
    longest: float | None
    truncated: float | None


def scan_rows(data: Mapping[str, Any]) -> tuple[ScanRow, ...]:
    return ()
