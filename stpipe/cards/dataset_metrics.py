"""What a data set is like: size, columns, types, lengths, labels, first rows. Texts are looked at in a sample, tokens are counted in full."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stpipe.core.rows import Rows
from stpipe.reports.text import shorten

SAMPLE = 1000
EXAMPLES = 3
MOST_CLASSES = 20
LABEL = "label"


def sample_rows(size: int, limit: int = SAMPLE) -> np.ndarray:
    """(n,) int64 numbers of at most `limit` rows: the first EXAMPLES, and others spread evenly over the data set. No chance in it."""
    if size <= limit:
        return np.arange(size, dtype=np.int64)
    spread = np.linspace(0, size - 1, max(limit - EXAMPLES, 0)).astype(np.int64)
    return np.unique(np.concatenate([np.arange(EXAMPLES, dtype=np.int64), spread]))


def compute_dataset_metrics(
    rows: Rows,
    *,
    size: int | None = None,
    lengths: Mapping[str, np.ndarray] | None = None,
    label: Mapping[str, Any] | None = None,
    examples: int = 0,
) -> dict[str, Any]:
    """Statistics of a data set as plain JSON values.

    Args:
        rows: a sample of the rows (`sample_rows`), the first rows first.
        size: rows of the whole data set; None: `rows` are all.
        lengths: role -> (N,) tokens of each of its texts before any cut, of the whole data set; roles that it lacks get no token statistics.
        label: what is known of all labels, as data/report.py has it; None: they are counted in `rows`.
        examples: how many of the first rows to keep, long texts shortened; 0 keeps none, because data may be private.

    Returns:
        size, sample (rows whose texts were looked at), columns, stats (column -> type; min, mean and max of `tokens`,
        `characters`, `items` a list and `values`; `classes`: class -> share of the rows), and samples.
    """
    counted = lengths or {}
    stats = {role: _text_stats(texts, counted.get(role)) for role, texts in rows.columns.items()}
    if rows.labels is not None:
        stats[LABEL] = _label_stats(rows.labels, label)
    return {
        "size": len(rows) if size is None else size,
        "sample": len(rows),
        "columns": list(stats),
        "stats": stats,
        "samples": first_rows(rows, examples),
    }


def first_rows(rows: Rows, count: int) -> list[dict[str, Any]]:
    """The first rows by column; texts shortened, lists of texts to their first three."""
    columns = {**rows.columns, **({} if rows.labels is None else {LABEL: rows.labels})}
    return [{name: _shown(values[i]) for name, values in columns.items()} for i in range(min(count, len(rows)))]


def _shown(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_shown(v) for v in value[:EXAMPLES]]
    return shorten(value) if isinstance(value, str) else value


def _text_stats(texts: Sequence[Any], tokens: np.ndarray | None) -> dict[str, Any]:
    """One column of texts, or of lists of texts."""
    found = list(texts)
    lists = bool(found) and not isinstance(found[0], str)
    flat = [text for row in found for text in row] if lists else found
    stats: dict[str, Any] = {"type": "list of strings" if lists else "string"}
    if lists:
        stats["items"] = _spread(map(len, found))
    if tokens is not None:
        stats["tokens"] = _spread(tokens)
    return {**stats, "characters": _spread(map(len, flat))}


def _label_stats(labels: Sequence[Any], known: Mapping[str, Any] | None) -> dict[str, Any]:
    """Classes with their shares, or the range of the numbers."""
    first = next(iter(labels), None)
    if isinstance(first, list | tuple):
        return {
            "type": "list of floats",
            "items": _spread(map(len, labels)),
            "values": _known_range(known, [v for row in labels for v in row]),
        }
    if isinstance(first, float):
        return {"type": "float", "values": _known_range(known, labels)}
    return {"type": "int" if isinstance(first, int) else "string", **_classes(labels, known)}


def _known_range(known: Mapping[str, Any] | None, values: Sequence[float]) -> dict[str, float]:
    if known is not None and {"min", "mean", "max"} <= known.keys():
        return {key: float(known[key]) for key in ("min", "mean", "max")}
    return _spread(values)


def _classes(labels: Sequence[Any], known: Mapping[str, Any] | None) -> dict[str, Any]:
    """Share of each class, of the MOST_CLASSES largest; more are only counted."""
    names, numbers = np.unique(np.array([str(v) for v in labels]), return_counts=True)
    counts = (known or {}).get("rows") or dict(zip(names.tolist(), numbers.tolist(), strict=True))
    total = sum(counts.values())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_CLASSES]
    return {"num_classes": (known or {}).get("classes") or len(counts), "classes": {name: n / total for name, n in ranked}}


def _spread(values: Iterable[float]) -> dict[str, float]:
    """min, mean and max; empty for no values."""
    array = np.fromiter(values, np.float64) if not isinstance(values, np.ndarray) else values
    if array.size == 0:
        return {}
    return {"min": float(array.min()), "mean": float(array.mean()), "max": float(array.max())}
