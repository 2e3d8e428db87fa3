"""A run directory is read in whatever state it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stpipe.config.errors import ConfigError
from stpipe.reports.run_record import read_run


def test_everything_is_read(run_dir: Path) -> None:
    record = read_run(run_dir)
    assert record.name == "synthetic"
    assert record.missing == ()
    assert record.plan["global_batch"] == 64
    evaluation = record.evaluation("dev")
    assert evaluation is not None
    assert (evaluation.primary, evaluation.query_metric, evaluation.unit, evaluation.count) == ("cosine_ndcg@10", "ndcg@10", "queries", 120)
    assert list(evaluation.systems) == ["before", "after", "bm25"]
    assert len(evaluation.queries) == 120
    means = [sum(q.systems[s]["ndcg@10"] for q in evaluation.queries) / 120 for s in evaluation.systems]
    assert [evaluation.value(s) for s in evaluation.systems] == pytest.approx(means)
    difference = evaluation.difference("after", "bm25")
    assert difference is not None
    assert difference.low < difference.mean < difference.high
    assert evaluation.difference("bm25", "after") is None


def test_the_evaluators_own_name_is_taken_off_metrics(run_dir: Path) -> None:
    path = run_dir / "evaluation" / "dev" / "metrics.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["primary"] = "dev_" + raw["primary"]
    raw["systems"] = {s: {f"dev_{k}": v for k, v in values.items()} for s, values in raw["systems"].items()}
    path.write_text(json.dumps(raw), encoding="utf-8")
    evaluation = read_run(run_dir).evaluation("dev")
    assert evaluation is not None
    assert evaluation.primary in evaluation.systems["after"]


def test_evaluators_stand_in_the_order_of_the_configuration(run_dir: Path, synthetic) -> None:
    for name in ("aaa", "nested/inner", ".writing-dev-77", ".replaced-dev-77/inner"):
        synthetic.write_evaluation(run_dir / "evaluation" / name, 5)
    found = read_run(run_dir).evaluations
    assert [e.name for e in found] == ["dev", "aaa", "nested/inner"]
    assert [e.full_name("x") for e in found] == ["dev_x", "aaa_x", "nested_inner_x"]


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "status.json", "plan.json", "data.json"])
@pytest.mark.parametrize("damage", ["absent", "cut", "not a mapping"])
def test_a_damaged_file_is_named(run_dir: Path, name: str, damage: str) -> None:
    path = run_dir / name
    if damage == "absent":
        path.unlink()
    else:
        path.write_text('{"a": [1,' if damage == "cut" else "[1, 2]", encoding="utf-8")
    assert read_run(run_dir).missing == (name,)


def test_damaged_evaluations_are_left_out(run_dir: Path) -> None:
    (run_dir / "evaluation" / "dev" / "metrics.json").write_text("{", encoding="utf-8")
    assert read_run(run_dir).evaluations == ()


@pytest.mark.parametrize("made", [False, True])
def test_what_is_no_run_is_refused(tmp_path: Path, made: bool) -> None:
    directory = tmp_path / "nothing"
    if made:
        directory.mkdir()
    with pytest.raises(ConfigError, match=r"run\.dir"):
        read_run(directory)
