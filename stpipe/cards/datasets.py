"""Where the data of a run came from and what they are like, recorded when the run starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stpipe.cards.dataset_metrics import compute_dataset_metrics
from stpipe.cards.places import hub_id, published
from stpipe.core.rows import Rows


@dataclass(frozen=True)
class DatasetFacts:
    """One split of one data set.

    name: as configured; address: what was read (a Hub id, a path, package://..., stdlib://...); rows: a sample
    (dataset_metrics.sample_rows); size: of the whole split; lengths: role -> tokens of each text; scan: what the pre-flight scan
    found (data/report.py): columns, label, fingerprint, format, provenance; loss: class (`name`) and parameters (`config`) of what it is trained with.
    """

    name: str
    address: str
    rows: Rows
    size: int
    lengths: Mapping[str, np.ndarray] = field(default_factory=dict)
    scan: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] | None = None


def dataset_metadata(facts: DatasetFacts, *, examples: int = 0) -> dict[str, Any]:
    """Name, origin (Hub id, subset, split, revision, checksums), fingerprint, statistics, loss: plain JSON, no path of this machine."""
    origin = dict(facts.scan.get("provenance") or {})
    metrics = compute_dataset_metrics(facts.rows, size=facts.size, lengths=facts.lengths, label=facts.scan.get("label"), examples=examples)
    return {
        "name": facts.name,
        "id": origin.get("id") or hub_id(facts.address),
        "source": published(facts.address),
        "subset": origin.get("subset"),
        "split": origin.get("split"),
        "revision": origin.get("revision"),
        "files": origin.get("files") or {},
        "fingerprint": facts.scan.get("fingerprint"),
        "format": facts.scan.get("format") or facts.rows.format,
        "read_from": dict(facts.scan.get("columns") or {}),
        **metrics,
        "loss": dict(facts.loss) if facts.loss else None,
    }
