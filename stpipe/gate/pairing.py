"""Which scores of two runs belong together: the same queries (or rows) of the same evaluator, judged alike, in the same order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stpipe.evaluation.row_metrics import ROW_METRICS, row_metric
from stpipe.gate.paired_test import NotComparableError, Pair, QueryPair, RowPair
from stpipe.reports.run_record import EvaluationRecord, QueryRecord, RunRecord

JUDGEMENTS = "qrels.trec"


@dataclass(frozen=True)
class Side:
    """One run's result of one evaluator: the system of it that is compared, and the folder its files are in."""

    run: str
    record: EvaluationRecord
    system: str
    folder: Path

    @classmethod
    def of(cls, name: str, run: RunRecord, evaluator: str, system: str) -> Side | None:
        """None when the run has no such evaluator, or no such system in it."""
        found = run.evaluation(evaluator)
        if found is None or system not in found.systems:
            return None
        return cls(name, found, system, run.directory / "evaluation" / evaluator)

    def value(self, metric: str | None = None) -> float | None:
        """Of the primary metric, or of this one."""
        return self.record.value(self.system, metric)

    def queries(self, metric: str) -> dict[str, QueryRecord]:
        """Queries that have this metric, by id."""
        return {q.query_id: q for q in self.record.queries if metric in q.systems.get(self.system, {})}

    def judgements(self) -> str | None:
        """Digest of the relevance judgements, whatever their order; None where there are none."""
        path = self.folder / JUDGEMENTS
        if not path.is_file():
            return None
        lines = sorted(path.read_text(encoding="utf-8").split("\n"))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def pair_up(candidate: Side, baseline: Side, *, metric: str | None = None, common: bool = False) -> Pair:
    """The scores of both that belong together.

    Args:
        metric: a metric with scores of each query; None is the one behind the primary metric.
        common: use the queries that both have where the two sets differ, and any judgements.

    Raises:
        NotComparableError: there are none.
    """
    if candidate.record.evaluator != baseline.record.evaluator:
        raise NotComparableError(f"the evaluators differ: {candidate.record.evaluator}, in {baseline.run} {baseline.record.evaluator}")
    if candidate.record.rows is not None or baseline.record.rows is not None:
        return _pair_rows(candidate, baseline, metric)
    wanted = metric or baseline.record.query_metric
    if wanted is None:
        raise NotComparableError(f"{baseline.run} has recorded no scores of single queries or rows")
    ours, theirs = candidate.queries(wanted), baseline.queries(wanted)
    if not ours or not theirs:
        raise NotComparableError(f"no scores of single queries by {wanted} in {baseline.run if ours else candidate.run}")
    shared = [name for name, query in theirs.items() if name in ours and ours[name].text == query.text]
    everything = len(ours.keys() | theirs.keys())
    left_out = everything - len(shared)
    if left_out and not common:
        raise NotComparableError(
            f"{left_out} of {everything} queries are in one run only, or with another text; --common compares the rest"
        )
    if not shared:
        raise NotComparableError("no query is in both runs")
    if not common and candidate.judgements() != baseline.judgements():
        raise NotComparableError(f"the relevance judgements ({JUDGEMENTS}) differ; --common compares all the same")
    a, b = (
        np.array([found[name].systems[side.system][wanted] for name in shared]) for found, side in ((ours, candidate), (theirs, baseline))
    )
    return QueryPair(wanted, a, b, left_out)


def _pair_rows(candidate: Side, baseline: Side, metric: str | None) -> RowPair:
    primary = baseline.record.primary
    if metric is not None and metric != primary:
        raise NotComparableError(f"{metric} has no scores of single queries; only the primary metric {primary} can be tested")
    ours, theirs = candidate.record.rows, baseline.record.rows
    if ours is None or theirs is None:
        raise NotComparableError(f"no scores of single rows in {candidate.run if ours is None else baseline.run}")
    if candidate.record.primary != primary or ours.metric != theirs.metric or ours.metric not in ROW_METRICS:
        raise NotComparableError(f"no test is known between {candidate.record.primary} ({ours.metric}) and {primary} ({theirs.metric})")
    if ours.labels != theirs.labels:
        raise NotComparableError(f"the labels of the rows differ ({len(ours.labels)} rows, in {baseline.run} {len(theirs.labels)})")
    for side, rows in ((candidate, ours), (baseline, theirs)):
        if side.system not in rows.systems:
            raise NotComparableError(f"no scores of single rows of the system {side.system} in {side.run}")
    return RowPair(
        primary,
        row_metric(ours.metric, ours.labels, ours.systems[candidate.system]),
        row_metric(theirs.metric, theirs.labels, theirs.systems[baseline.system]),
    )
