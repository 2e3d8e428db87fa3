"""What the pre-flight scan found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that some rows break. action: what was done (`fail` never gets here); examples: the first places with what was found."""

    rule: str
    action: str
    rows: int
    message: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RoleStats:
    """The texts of one role. tokens: mean, percentiles, greatest length before the cut; truncated_share: of all its texts.

    lengths: histogram of the lengths before the cut, `edges` in tokens and `counts` of texts; the last bin also holds all
    longer ones. Empty without texts.
    """

    texts: int
    distinct: int
    prompt: str
    max_length: int | None
    tokens: Mapping[str, float]
    truncated_share: float
    lengths: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SplitScan:
    """One split of one data set: where it came from, what its columns were taken for, and what its rows are like.

    provenance: Hub id, subset, split, revision and files with their checksums, as far as they are known (data/provenance.py).
    """

    source: str
    fingerprint: str
    format: str
    columns: Mapping[str, str]
    roles_from: str
    unused_columns: tuple[str, ...]
    rows_read: int
    rows: int
    roles: Mapping[str, RoleStats]
    label: Mapping[str, Any] | None
    groups: Mapping[str, Any]
    findings: tuple[Finding, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScanReport:
    """The scan of all data sets: data set -> split (`train`, `eval`) -> what was found."""

    sources: Mapping[str, Mapping[str, SplitScan]] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """One line for each finding."""
        return [
            f"{name} ({split}): {finding.message}"
            for name, splits in self.sources.items()
            for split, scan in splits.items()
            for finding in scan.findings
        ]

    def as_dict(self) -> dict[str, Any]:
        """JSON for data.json."""
        return {
            "sources": {name: {split: asdict(scan) for split, scan in splits.items()} for name, splits in self.sources.items()},
            "warnings": self.warnings,
        }

    def lines(self) -> list[str]:
        """The scan for a terminal."""
        out = []
        for name, splits in self.sources.items():
            for split, scan in splits.items():
                columns = ", ".join(role if role == column else f"{role}={column}" for role, column in scan.columns.items())
                out.append(f"{name} {split}: {scan.rows:,} rows of {scan.format} from {scan.source} ({columns}; {scan.roles_from})")
                if scan.unused_columns:
                    out.append(f"  unused columns: {', '.join(scan.unused_columns)}")
                for role, stats in scan.roles.items():
                    lengths = ", ".join(f"{k} {v:.0f}" for k, v in stats.tokens.items())
                    out.append(
                        f"  {role}: {stats.distinct:,} distinct texts; tokens {lengths}; cut {stats.truncated_share:.1%} at {stats.max_length}"
                    )
                out += [f"  {f.action}: {f.message}" for f in scan.findings]
        return out
