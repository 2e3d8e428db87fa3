"""What smaller embeddings cost in quality: fewer dimensions (Matryoshka) and fewer bits, as curves over bytes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from stpipe.reports.run_record import EvaluationRecord, RunRecord, mapping
from stpipe.reports.text import plain_value

FLOAT = "float32"
#: Bytes of one dimension.
BYTES: Mapping[str, float] = {FLOAT: 4.0, "int8": 1.0, "uint8": 1.0, "binary": 0.125, "ubinary": 0.125}
#: Metrics of an evaluator at sizes of its own.
SIZED = re.compile(r".+?(?=_at_|_as_)(_at_\d+_dims)?(_as_(int8|binary))?")
COMPRESSED = "compressed_retrieval"
#: What evaluators may differ in and still be points of one curve.
CUT = ("truncate_dim", "name", "source")


def trade_offs(record: RunRecord) -> list[dict[str, Any]]:
    """Curves of one metric: those that an evaluator made at several sizes, then evaluators that differ in `truncate_dim` only.

    Each has `title`, `metric` and `points` with `dims`, `precision`, `bytes` of a vector, and `values` by system.
    """
    return [*_compressed(record), *_truncated(record)]


def size_metrics(section: Mapping[str, Any]) -> frozenset[str]:
    """The metrics of an evaluation that a curve of `trade_offs` shows, so that no other table needs them."""
    names = (m["name"] for m in section["metrics"]) if section["evaluator"] == COMPRESSED else ()
    return frozenset(name for name in names if SIZED.fullmatch(name))


def _compressed(record: RunRecord) -> Iterator[dict[str, Any]]:
    for e in record.evaluations:
        curves = {s: c for s, found in e.details.items() if (c := mapping(found.get("compression")))}
        if not curves:
            continue
        points: dict[tuple[int, str], dict[str, float]] = defaultdict(dict)
        for system, curve in curves.items():
            for point in curve.get("points") or ():
                if point.get("value") is not None:
                    points[int(point["dims"]), str(point["precision"])][system] = float(point["value"])
        metric = str(next(iter(curves.values())).get("metric", e.primary))
        yield {"title": e.name, "metric": metric, "points": [_point(*size, values) for size, values in points.items()]}


def _truncated(record: RunRecord) -> Iterator[dict[str, Any]]:
    """Evaluators that are the same but for `truncate_dim`; None is the width that Matryoshka trains, where the loss says it."""
    groups: dict[str, dict[int, EvaluationRecord]] = defaultdict(dict)
    width = _full_width(record.section("loss"))
    for e in record.evaluations:
        settings = _settings(record.section("evaluator"), e.name)
        if settings is None or "truncate_dim" not in settings:
            continue
        dims = settings["truncate_dim"] or width
        if dims is not None:
            alike = {k: v for k, v in settings.items() if k not in CUT}
            outer = e.name.rpartition("/")[0]
            groups[plain_value([outer, e.evaluator, e.primary, settings.get("source"), alike])].setdefault(int(dims), e)
    for by_dims in groups.values():
        if len(by_dims) > 1:
            found = [by_dims[dims] for dims in sorted(by_dims)]
            points = [_point(dims, FLOAT, _values(by_dims[dims])) for dims in sorted(by_dims)]
            yield {"title": ", ".join(e.name for e in found), "metric": found[0].primary, "points": points}


def _point(dims: int, precision: str, values: Mapping[str, float]) -> dict[str, Any]:
    return {"dims": dims, "precision": precision, "bytes": dims * BYTES.get(precision, 4.0), "values": dict(values)}


def _values(evaluation: EvaluationRecord) -> dict[str, float]:
    return {s: value for s in ("before", "after") if (value := evaluation.value(s)) is not None}


def _settings(evaluators: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The configuration of the evaluator OUTER/INNER."""
    found: Mapping[str, Any] = {"evaluators": evaluators}
    for part in name.split("/"):
        inner = mapping(found.get("evaluators")).get(part)
        if not isinstance(inner, Mapping):
            return None
        found = inner
    return found


def _full_width(loss: Mapping[str, Any]) -> int | None:
    dims = [d for d in loss.get("dims") or () if isinstance(d, int)]
    return max(dims, default=None)
