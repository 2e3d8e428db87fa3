"""The systems of an evaluation by its primary metric, with their intervals: before, best in training, after, and those without a model."""

from __future__ import annotations

import math
from typing import Any

from stpipe.config.metrics import Better
from stpipe.reports.metrics_log import MetricsLog
from stpipe.reports.quality import verdict
from stpipe.reports.run_record import EvaluationRecord

BEST = "best"


def standings(evaluation: EvaluationRecord, log: MetricsLog, *, kept: int | None, better: Better = "higher") -> list[dict[str, Any]]:
    """One row a system: value, step, 95 % interval, and what `after` has more than it. Rows without a value are left out.

    The row "best" is the best evaluation in training by this metric, whichever weights were kept.

    Args:
        evaluation: of one evaluator.
        log: of the run.
        kept: step whose weights were kept, None when they were the last ones.
        better: which side of the metric is good.
    """
    values = {system: evaluation.value(system) for system in evaluation.systems}
    best = _best(evaluation, log, better)
    rows = [_row(evaluation, system, value, better) for system, value in values.items() if value is not None and math.isfinite(value)]
    for row in rows:
        row["step"] = {"before": 0, "after": kept}.get(row["system"])
    if best is not None:
        step, value = best
        same = step == kept and math.isclose(value, values.get("after") or math.nan, rel_tol=1e-6)
        interval = evaluation.intervals.get("after") if same else None
        low, high = interval or (None, None)
        place = next((i for i, row in enumerate(rows) if row["system"] == "after"), len(rows))
        rows.insert(place, {"system": BEST, "step": step, "value": value, "low": low, "high": high, "difference": None})
    return rows


def _row(evaluation: EvaluationRecord, system: str, value: float, better: Better) -> dict[str, Any]:
    low, high = evaluation.intervals.get(system, (None, None))
    found = evaluation.difference("after", system)
    difference = None
    if found is not None and found.metric in ("", evaluation.primary):
        difference = {"mean": found.mean, "low": found.low, "high": found.high, "p": found.p, "verdict": verdict(found, better=better)}
    return {"system": system, "step": None, "value": value, "low": low, "high": high, "difference": difference}


def _best(evaluation: EvaluationRecord, log: MetricsLog, better: Better) -> tuple[int, float] | None:
    points = [p for p in log.finite(evaluation.full_name(evaluation.primary), split="eval") if p.step > 0]
    if not points or better is None:
        return None
    sign = -1 if better == "lower" else 1
    found = max(points, key=lambda p: (sign * p.value, -p.step))
    return found.step, found.value
