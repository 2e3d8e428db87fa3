"""Which step was kept, and whether throughput held."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from stpipe.reports.metrics_log import MetricsLog, Record
from stpipe.reports.run_record import RunRecord
from stpipe.reports.training import best_step, throughput_section, throughput_warning, training_section


def record(values: dict[str, list[tuple[int, float]]], *, split: str = "eval", best: str | None = "dev_x") -> RunRecord:
    records = tuple(Record(step, 0.0, split, name, value) for name, points in values.items() for step, value in points)
    empty: dict[str, Any] = {}
    return RunRecord(Path("run"), {"trainer": {"best_metric": best}}, empty, empty, empty, empty, MetricsLog(records))


POINTS = [(0, 0.9), (10, 0.5), (20, 0.7), (30, 0.7), (40, 0.6)]


def test_the_first_best_step_after_the_start_is_kept() -> None:
    best = best_step(record({"dev_x": POINTS}), {})
    assert best is not None
    assert (best.step, best.value) == (20, 0.7)


def test_a_metric_that_should_be_small() -> None:
    best = best_step(record({"dev_x": POINTS}), {"dev_x": "lower"})
    assert best is not None
    assert best.step == 10


@pytest.mark.parametrize(("metric", "points"), [(None, POINTS), ("dev_y", POINTS), ("dev_x", POINTS[:1]), ("dev_x", [(10, float("nan"))])])
def test_no_best_step_without_evaluations(metric: str | None, points: list[tuple[int, float]]) -> None:
    assert best_step(record({"dev_x": points}, best=metric), {}) is None


def test_a_loss_that_is_no_number_is_counted() -> None:
    section = training_section(record({"loss": [(1, 2.0), (2, float("nan")), (3, 1.0)]}, split="train"), {})
    assert section["not_finite"] == 1
    assert section["curves"]["loss"] == [[1, 2.0], [2, None], [3, 1.0]]
    assert (section["first_loss"], section["last_loss"]) == (2.0, 1.0)


@pytest.mark.parametrize(("steps", "reached"), [(1, 1.0), (10, 10.0), (40, 38.5)])
def test_what_a_target_came_to_is_the_mean_of_the_end(steps: int, reached: float) -> None:
    run = record({"document_active_dims": [(s, float(s)) for s in range(1, steps + 1)]}, split="train")
    steered = dataclasses.replace(run, plan={"targets": {"document_active_dims": 20, "query_active_dims": 5}})
    assert training_section(run, {})["targets"] == []
    assert training_section(steered, {})["targets"] == [
        {"metric": "document_active_dims", "target": 20.0, "reached": reached},
        {"metric": "query_active_dims", "target": 5.0, "reached": None},
    ]


def rates(values: list[float]) -> dict[str, Any]:
    return throughput_section(record({"tokens_per_second": list(enumerate(values, 1))}, split="train"))


def test_a_run_that_slows_down_is_reported() -> None:
    section = rates([500.0] + [1000.0] * 10 + [800.0] * 5)
    assert section["change"] == pytest.approx(-0.2)
    assert section["median"] == {"tokens_per_second": 1000.0}
    warning = throughput_warning(section)
    assert warning is not None
    assert "20%" in warning


@pytest.mark.parametrize("values", [[1000.0] * 7, [1000.0] * 15 + [950.0] * 5, [100.0] + [1000.0] * 12, []])
def test_no_alarm_without_cause(values: list[float]) -> None:
    assert throughput_warning(rates(values)) is None
