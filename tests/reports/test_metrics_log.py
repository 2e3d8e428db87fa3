"""metrics.jsonl as runs leave it: cut off, resumed, with numbers that are none."""

from __future__ import annotations

import json
import math
from pathlib import Path

from stpipe.reports.metrics_log import read_lines, read_metrics


def line(step: int, value: float | None, *, name: str = "loss", split: str = "train") -> str:
    return json.dumps({"step": step, "epoch": step / 10, "split": split, "name": name, "value": value, "time": 1.0}) + "\n"


def test_a_missing_file_is_an_empty_log(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl").records == ()


def test_a_cut_last_line_is_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, 2.0) + line(2, 1.5) + line(3, 1.0)[:-20], encoding="utf-8")
    log = read_metrics(path)
    assert [(p.step, p.value) for p in log.series("loss")] == [(1, 2.0), (2, 1.5)]
    assert log.broken == 1


def test_lines_that_are_no_records_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('[1, 2]\n"text"\n{"step": "x"}\n{"step": 1}\n\n' + line(4, 1.0), encoding="utf-8")
    log = read_metrics(path)
    assert [p.step for p in log.series("loss")] == [4]
    assert log.broken == 4


def test_a_cut_character_does_not_lose_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1, 2.0).encode() + '{"name": "\u00e9'.encode()[:-1])
    assert len(read_metrics(path).records) == 1


def test_the_last_record_of_a_step_counts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, 2.0) + line(2, 1.9) + line(3, 1.8) + line(2, 1.5), encoding="utf-8")
    assert [(p.step, p.value) for p in read_metrics(path).series("loss")] == [(1, 2.0), (2, 1.5), (3, 1.8)]


def test_numbers_that_are_none_stay_visible(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, math.nan) + line(2, None) + line(3, math.inf) + line(4, 0.5), encoding="utf-8")
    log = read_metrics(path)
    assert [math.isfinite(p.value) for p in log.series("loss")] == [False, False, False, True]
    assert [p.step for p in log.finite("loss")] == [4]


def test_splits_are_apart(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, 2.0) + line(1, 0.4, name="dev_cosine", split="eval"), encoding="utf-8")
    log = read_metrics(path)
    assert (log.names("train"), log.names("eval")) == (("loss",), ("dev_cosine",))
    assert log.epochs() == {1: 0.1}


def test_read_lines_leaves_out_what_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "per_query.jsonl"
    path.write_text('{"a": 1}\n[]\n{"a": 2}\n{"a"', encoding="utf-8")
    assert [found["a"] for found in read_lines(path)] == [1, 2]
    assert list(read_lines(tmp_path / "absent.jsonl")) == []
