"""The table of the training log: every evaluation, and as many losses between them as a reader can take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stpipe.reports.run_record import RunRecord
from stpipe.reports.training import Best

MOST_ROWS = 40


@dataclass(frozen=True)
class LogTable:
    """Rows of (step, epoch, loss, one value a column); None where nothing was measured at the step. `left_out`: rows thinned out."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, float, float | None, tuple[float | None, ...]], ...]
    left_out: int


def training_log(record: RunRecord, best: Best | None) -> LogTable:
    """Loss and primary metrics over steps; all evaluations stay, steps with a loss only are thinned evenly."""
    logged = set(record.log.names("eval"))
    columns = [e.full_name(e.primary) for e in record.evaluations]
    columns = [c for c in dict.fromkeys([*columns, *([best.metric] if best else [])]) if c in logged]
    losses = {p.step: p.value for p in record.log.series("loss")}
    metrics = [{p.step: p.value for p in record.log.series(c, split="eval")} for c in columns]
    evaluated = {step for metric in metrics for step in metric}
    epochs = record.log.epochs()
    plain = sorted(set(losses) - evaluated)
    stride = max(math.ceil(len(plain) / max(MOST_ROWS - len(evaluated), 10)), 1)
    steps = sorted(evaluated | set(plain[stride - 1 :: stride]))
    rows = tuple((s, epochs.get(s, 0.0), _finite(losses.get(s)), tuple(_finite(m.get(s)) for m in metrics)) for s in steps)
    return LogTable(tuple(columns), rows, len(evaluated | set(plain)) - len(rows))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
