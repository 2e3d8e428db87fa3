"""The scan of the data (data.json) as rows of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stpipe.reports.run_record import mapping


@dataclass(frozen=True, slots=True)
class RoleRow:
    """Texts of one role in one split. tokens: mean, percentiles (p50...) and max before the cut; truncated: share of texts that are cut;
    lengths: histogram, empty where the scan made none."""

    source: str
    split: str
    role: str
    prompt: str
    texts: int | None
    distinct: int | None
    tokens: Mapping[str, float]
    max_length: int | None
    truncated: float | None
    lengths: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SplitRow:
    """One split of one data set. rows_read: before rules and row caps; label: what its labels are like, None without labels."""

    source: str
    split: str
    origin: str
    format: str
    rows: int | None
    rows_read: int | None
    unused: tuple[str, ...]
    label: Mapping[str, Any] | None
    findings: tuple[Mapping[str, Any], ...]


def role_rows(data: Mapping[str, Any], *, split: str | None = None) -> tuple[RoleRow, ...]:
    """Length statistics by data set, split and role; of one split only when it is named."""
    return tuple(
        RoleRow(
            source=source,
            split=name,
            role=role,
            prompt=str(stats.get("prompt") or ""),
            texts=stats.get("texts"),
            distinct=stats.get("distinct"),
            tokens=mapping(stats.get("tokens")),
            max_length=stats.get("max_length"),
            truncated=stats.get("truncated_share"),
            lengths=mapping(stats.get("lengths")),
        )
        for source, name, scan in _splits(data)
        if split in (None, name)
        for role, stats in ((r, mapping(s)) for r, s in mapping(scan.get("roles")).items())
    )


def split_rows(data: Mapping[str, Any]) -> tuple[SplitRow, ...]:
    """What was read, kept and found, by data set and split."""
    return tuple(
        SplitRow(
            source=source,
            split=name,
            origin=str(scan.get("source") or ""),
            format=str(scan.get("format") or ""),
            rows=scan.get("rows"),
            rows_read=scan.get("rows_read"),
            unused=tuple(map(str, scan.get("unused_columns") or ())),
            label=scan.get("label") or None,
            findings=tuple(mapping(f) for f in scan.get("findings") or ()),
        )
        for source, name, scan in _splits(data)
    )


def percentiles(rows: tuple[RoleRow, ...]) -> tuple[str, ...]:
    """The token statistics that any row has, in the order of the scan."""
    return tuple(dict.fromkeys(key for row in rows for key in row.tokens))


def _splits(data: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for source, splits in mapping(data.get("sources")).items():
        for name, scan in mapping(splits).items():
            yield str(source), str(name), mapping(scan)
