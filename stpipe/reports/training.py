"""What the loop logged: curves, the step whose weights were kept, throughput and whether it held."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stpipe.config.metrics import Better
from stpipe.reports.metrics_log import Point
from stpipe.reports.run_record import RunRecord, mapping

RATES = ("samples_per_second", "tokens_per_second", "padding_share", "input_wait_share")
SLOWDOWN = 0.1
MIN_WINDOWS = 8
END = 0.1


@dataclass(frozen=True, slots=True)
class Best:
    """The evaluation whose weights the run kept."""

    metric: str
    step: int
    value: float


def best_step(record: RunRecord, directions: Mapping[str, Better]) -> Best | None:
    """The first evaluation after step 0 with the best value of trainer.best_metric; None when the run keeps the last weights."""
    metric = record.section("trainer").get("best_metric")
    points = [p for p in record.log.finite(metric, split="eval") if p.step > 0] if isinstance(metric, str) else []
    if not points:
        return None
    sign = -1 if directions.get(str(metric)) == "lower" else 1
    best = max(points, key=lambda p: (sign * p.value, -p.step))
    return Best(str(metric), best.step, best.value)


def training_section(record: RunRecord, directions: Mapping[str, Better]) -> dict[str, Any]:
    """Curves as lists of [step, value], by name: everything of the training split but rates, and all evaluations."""
    log = record.log
    curves = {n: _curve(log.series(n)) for n in log.names("train") if n not in RATES}
    losses = log.series("loss")
    best = best_step(record, directions)
    return {
        "curves": curves,
        "evaluations": {n: _curve(log.series(n, split="eval")) for n in log.names("eval")},
        "first_loss": _number(losses[0].value) if losses else None,
        "last_loss": _number(losses[-1].value) if losses else None,
        "not_finite": sum(not math.isfinite(p.value) for p in losses),
        "best": {"metric": best.metric, "step": best.step, "value": best.value} if best else None,
        "broken_lines": log.broken,
        "targets": [_target(record, name, float(value)) for name, value in mapping(record.plan.get("targets")).items()],
    }


def _target(record: RunRecord, metric: str, target: float) -> dict[str, Any]:
    """A metric that the run was steered to a value of, and its mean over the last tenth of the log (at least one window)."""
    values = [p.value for p in record.log.finite(metric)]
    end = values[-math.ceil(END * len(values)) :]
    return {"metric": metric, "target": target, "reached": statistics.fmean(end) if end else None}


def throughput_section(record: RunRecord) -> dict[str, Any]:
    """Rates a logging window, their medians, and the change of tokens per second from the first to the last quarter of the run.

    The first window is left out of the comparison: it pays for warm-up. Fewer than eight windows are too few to compare.
    """
    curves = {n: record.log.finite(n) for n in RATES}
    tokens = [p.value for p in curves["tokens_per_second"]]
    change = None
    if len(tokens) >= MIN_WINDOWS:
        quarter = len(tokens) // 4
        first, last = statistics.fmean(tokens[1 : 1 + quarter]), statistics.fmean(tokens[-quarter:])
        change = last / first - 1 if first > 0 else None
    return {
        "windows": len(tokens),
        "median": {n: statistics.median(p.value for p in points) for n, points in curves.items() if points},
        "change": change,
        "curves": {n: _curve(points) for n, points in curves.items() if points},
        "elapsed": _elapsed(record),
    }


def _elapsed(record: RunRecord) -> list[list[float]]:
    """[step, seconds since the first] of the logged windows; a run that was continued has a gap in it. Empty without times."""
    times = {r.step: r.time for r in record.log.records if r.split == "train" and r.name == "tokens_per_second" and r.time is not None}
    start = min(times.values(), default=0.0)
    return [[step, round(time - start, 3)] for step, time in sorted(times.items())]


def throughput_warning(section: dict[str, Any]) -> str | None:
    """The alarm of a run that became slower as it went on."""
    change = section["change"]
    if change is None or change >= -SLOWDOWN:
        return None
    return f"tokens per second fell by {-change:.0%} from the first to the last quarter of the run"


def _curve(points: tuple[Point, ...]) -> list[list[float | None]]:
    return [[p.step, _number(p.value)] for p in points]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
