"""What evaluation found: systems side by side, tested differences, and the queries that gained and lost most."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from stpipe.config.metrics import Better
from stpipe.reports.run_record import Difference, EvaluationRecord, QueryRecord
from stpipe.reports.sparsity import section_metrics, sparsity_section
from stpipe.reports.trade_offs import size_metrics

SHOWN = 10
BINS = 20
COMPARISONS = (("after", "before"), ("after", "base"), ("after", "bm25"))
#: In the names of metrics of the order that a reranker was given, which is the system "base" too.
BASE_ORDER = "base_"


def evaluation_section(evaluation: EvaluationRecord, directions: Mapping[str, Better]) -> dict[str, Any]:
    """One evaluator's part of the report; `directions` is by full metric name and may lack metrics of unknown evaluators."""
    metrics = dict.fromkeys(metric for values in evaluation.systems.values() for metric in values)
    primary_first = sorted(metrics, key=lambda metric: metric != evaluation.primary)
    return {
        "name": evaluation.name,
        "evaluator": evaluation.evaluator,
        "primary": evaluation.primary,
        "full_primary": evaluation.full_name(evaluation.primary),
        "count": evaluation.count,
        "unit": evaluation.unit,
        "systems": list(evaluation.systems),
        "metrics": [_metric(evaluation, metric, directions) for metric in primary_first],
        "differences": [_difference(d, evaluation, directions) for d in evaluation.differences],
        "queries": [c for pair in COMPARISONS if (c := query_changes(evaluation, *pair)) is not None],
        "sparsity": sparsity_section(evaluation),
    }


def table_metrics(section: Mapping[str, Any], sections: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The metrics of an evaluation for its main table: without those that its part about sparsity or the curves of smaller
    embeddings show, that stand in the table of an evaluator inside it, or in the column of a system. The primary metric is
    always among them."""
    shown = {*section_metrics(section["sparsity"]), *size_metrics(section), *_in_columns(section)}
    for inner in sections:
        name = inner["name"].removeprefix(f"{section['name']}/")
        if name != inner["name"]:
            shown |= {f"{name.replace('/', '_')}_{m['name']}" for m in inner["metrics"]}
    return [m for m in section["metrics"] if m["name"] == section["primary"] or m["name"] not in shown]


def _in_columns(section: Mapping[str, Any]) -> set[str]:
    """`base_ndcg@10` of a reranker where the table has `ndcg@10` of that order: in column "base", or "bm25" where the data gave none."""
    values = {m["name"]: m["values"] for m in section["metrics"]}
    plain = {name: values.get(name.replace(BASE_ORDER, "", 1), {}) for name in values if BASE_ORDER in name}
    return {name for name, of in plain.items() if of.keys() & {"base", "bm25"}}


def verdict(difference: Difference, *, better: Better = "higher") -> str:
    """better or worse when the 95 % interval leaves out zero, else unclear; a metric without a good side is always unclear."""
    if better is None or difference.low <= 0 <= difference.high:
        return "unclear"
    return "better" if (difference.low > 0) == (better == "higher") else "worse"


def _metric(evaluation: EvaluationRecord, metric: str, directions: Mapping[str, Better]) -> dict[str, Any]:
    values = {s: values[metric] for s, values in evaluation.systems.items() if metric in values}
    change = values["after"] - values["before"] if {"after", "before"} <= set(values) else None
    return {"name": metric, "better": directions.get(evaluation.full_name(metric)), "values": values, "change": change}


def _difference(difference: Difference, evaluation: EvaluationRecord, directions: Mapping[str, Better]) -> dict[str, Any]:
    metric = difference.metric or evaluation.primary
    return {
        "system": difference.system,
        "against": difference.against,
        "metric": metric,
        "mean": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "p": difference.p,
        "verdict": verdict(difference, better=directions.get(evaluation.full_name(metric), "higher")),
    }


def query_changes(evaluation: EvaluationRecord, system: str, against: str) -> dict[str, Any] | None:
    """Changes query by query; None when the two systems have no scores per query in common."""
    metric = evaluation.query_metric
    if metric is None:
        return None
    changes = [c for q in evaluation.queries if (c := _change(q, metric, system, against)) is not None]
    if not changes:
        return None
    ranked = sorted(changes, key=lambda c: (-c["change"], c["query_id"]))
    gains = [c for c in ranked if c["change"] > 0]
    losses = [c for c in reversed(ranked) if c["change"] < 0]
    return {
        "system": system,
        "against": against,
        "metric": metric,
        "better": len(gains),
        "worse": len(losses),
        "equal": len(changes) - len(gains) - len(losses),
        "histogram": _histogram([c["change"] for c in changes]),
        "gains": gains[:SHOWN],
        "losses": losses[:SHOWN],
    }


def _change(query: QueryRecord, metric: str, system: str, against: str) -> dict[str, Any] | None:
    new, old = query.systems.get(system, {}), query.systems.get(against, {})
    if metric not in new or metric not in old:
        return None
    return {
        "query_id": query.query_id,
        "query": query.text,
        "from": old[metric],
        "to": new[metric],
        "change": new[metric] - old[metric],
        "rank_from": _rank(old.get("rank")),
        "rank_to": _rank(new.get("rank")),
    }


def _rank(rank: float | None) -> int | None:
    return int(rank) if rank is not None and math.isfinite(rank) else None


def _histogram(changes: list[float]) -> dict[str, list[float]]:
    """Counts of changes in equal bins, symmetric about zero so that gains and losses can be compared by eye."""
    reach = max(map(abs, changes)) or 1.0
    width = 2 * reach / BINS
    counts = [0] * BINS
    for change in changes:
        if change:
            counts[min(int((change + reach) / width), BINS - 1)] += 1
    return {"edges": [-reach + i * width for i in range(BINS + 1)], "counts": [float(c) for c in counts]}
