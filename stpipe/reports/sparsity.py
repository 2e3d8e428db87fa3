"""What the embeddings of a sparse model cost, from the metrics of an evaluation: widths, multiplications, posting lists, and
quality at fewer dimensions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from stpipe.reports.run_record import EvaluationRecord

ACTIVE, ZEROS = "active_dims", "sparsity_ratio"
SIDES: Mapping[str, str] = {
    "query_": "a query",
    "corpus_": "a document",
    "anchor_": "an anchor",
    "positive_": "a positive",
    "negative_": "a negative",
    "": "a text",
}
#: Metric -> what it is, in words.
LABELS: Mapping[str, str] = {
    **{f"{side}{ACTIVE}": f"Active dimensions of {text}" for side, text in SIDES.items()},
    **{f"{side}{ZEROS}": f"Share of zeros in {text}" for side, text in SIDES.items()},
    "avg_flops": "Multiplications of a query with a document (FLOPS)",
    "flops_per_query": "Multiplications of a query with the corpus",
    "posting_list_mean": "Documents in a posting list, mean",
    "posting_list_max": "Documents in the longest posting list",
}
#: Metrics that also exist at each number of dimensions.
POINT = ("query_active_dims", "corpus_active_dims", "avg_flops")
MEASURE = re.compile(rf"(?P<lead>|.+?_)(?P<name>{'|'.join(LABELS)})")
AT_DIMS = re.compile(r"(?P<metric>.+)_at_(?P<dims>\d+)_dims")


def sparsity_section(evaluation: EvaluationRecord) -> dict[str, Any] | None:
    """The part of report.json about sparsity; None for an evaluation without, such as that of a dense model.

    Of an evaluator that joins others (NanoBEIR) only what stands beside its primary metric; its parts are evaluations of
    their own.
    """
    names = list(dict.fromkeys(metric for values in evaluation.systems.values() for metric in values))
    found = {name: match for name in names if (match := MEASURE.fullmatch(name)) and evaluation.primary.startswith(match["lead"])}
    if not found:
        return None
    lead = max((match["lead"] for match in found.values()), key=len)
    measures = [_measure(evaluation, name, LABELS[match["name"]]) for name, match in found.items() if match["lead"] == lead]
    return {"measures": measures, "curves": _curves(evaluation, names, lead)}


def section_metrics(section: Mapping[str, Any] | None) -> frozenset[str]:
    """The metrics that a section shows, so that no other table needs them."""
    if section is None:
        return frozenset()
    at_dims = (
        f"{name}_at_{point['dims']}_dims"
        for curve in section["curves"]
        for point in curve["points"]
        for name in (curve["metric"], *(f"{curve['lead']}{cost}" for cost in POINT))
    )
    return frozenset({m["name"] for m in section["measures"]}.union(at_dims))


def mean_widths(sections: Iterable[Mapping[str, Any] | None]) -> dict[str, float]:
    """Text ("a query") -> mean active dimensions after training, from the first evaluation that measured them."""
    of = LABELS[ACTIVE].removesuffix(SIDES[""])
    for section in sections:
        measures = section["measures"] if section else ()
        found = {
            m["label"].removeprefix(of): m["values"]["after"] for m in measures if m["label"].startswith(of) and "after" in m["values"]
        }
        if found:
            return found
    return {}


def _measure(evaluation: EvaluationRecord, name: str, label: str) -> dict[str, Any]:
    """Values by system, and the relative change from before to after."""
    values = _values(evaluation, name)
    before, after = values.get("before"), values.get("after")
    change = after / before - 1 if before and after is not None and not name.endswith(ZEROS) else None  # a share needs no share
    return {"name": name, "label": label, "values": values, "change": change}


def _curves(evaluation: EvaluationRecord, names: list[str], lead: str) -> list[dict[str, Any]]:
    """Each quality metric that was also measured with vectors cut to fewer dimensions; the last point is without a cut."""
    cuts: dict[str, list[int]] = {}
    for match in map(AT_DIMS.fullmatch, names):
        if match and match["metric"].startswith(lead) and match["metric"] in names and not MEASURE.fullmatch(match["metric"]):
            cuts.setdefault(match["metric"], []).append(int(match["dims"]))
    return [
        {"metric": metric, "lead": lead, "points": [_point(evaluation, metric, lead, n) for n in (*sorted(dims), None)]}
        for metric, dims in cuts.items()
    ]


def _point(evaluation: EvaluationRecord, metric: str, lead: str, dims: int | None) -> dict[str, Any]:
    """Values by system with vectors cut to `dims` dimensions, and what those vectors cost."""
    ending = "" if dims is None else f"_at_{dims}_dims"
    costs = {name: _values(evaluation, f"{lead}{name}{ending}") for name in POINT}
    return {"dims": dims, "values": _values(evaluation, metric + ending), **costs}


def _values(evaluation: EvaluationRecord, name: str) -> dict[str, float]:
    return {system: values[name] for system, values in evaluation.systems.items() if name in values}
