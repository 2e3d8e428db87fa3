"""The table of the log keeps every evaluation and stays short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stpipe.cards.training_log import MOST_ROWS, training_log
from stpipe.reports.metrics_log import MetricsLog, Record
from stpipe.reports.run_record import EvaluationRecord, RunRecord
from stpipe.reports.training import Best


def record(steps: int, every: int) -> RunRecord:
    losses = [Record(s, s / steps, "train", "loss", 1 / s) for s in range(1, steps + 1)]
    scores = [Record(s, s / steps, "eval", "dev_ndcg", s / steps) for s in range(0, steps + 1, every)]
    evaluation = EvaluationRecord("dev", "information_retrieval", "ndcg", 5, "queries", {}, (), (), None)
    empty: dict[str, Any] = {}
    return RunRecord(Path("run"), empty, empty, empty, empty, empty, MetricsLog((*losses, *scores)), (evaluation,))


def test_a_short_log_is_whole() -> None:
    table = training_log(record(4, 2), None)
    assert table.columns == ("dev_ndcg",)
    assert [row[0] for row in table.rows] == [0, 1, 2, 3, 4]
    assert table.rows[0] == (0, 0.0, None, (0.0,))
    assert table.rows[1] == (1, 0.25, 1.0, (None,))
    assert table.left_out == 0


@pytest.mark.parametrize(("steps", "every"), [(5000, 500), (5000, 100)])
def test_a_long_log_keeps_every_evaluation(steps: int, every: int) -> None:
    table = training_log(record(steps, every), Best("dev_other", steps, 0.5))
    shown = {row[0] for row in table.rows}
    assert set(range(0, steps + 1, every)) <= shown
    assert len(shown) <= max(MOST_ROWS, steps // every + 12)
    assert table.left_out + len(shown) == steps + 1
    assert table.columns == ("dev_ndcg",)


def test_an_empty_log() -> None:
    empty: dict[str, Any] = {}
    assert training_log(RunRecord(Path("run"), empty, empty, empty, empty, empty, MetricsLog()), None).rows == ()
