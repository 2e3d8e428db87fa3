"""The files of an evaluation: complete, readable by others, never half written."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from stpipe.config.errors import DataError
from stpipe.evaluation import EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator, SequentialEvaluator, TripletEvaluator, write
from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.collection import text_id
from stpipe.evaluation.judging import strictly_falling
from stpipe.evaluation.metrics import spearman
from stpipe.evaluation.write import qrels_lines, run_lines, trec_id, write_evaluation
from tests.evaluation.toy import Collapsed, ToyModel, pairs, scored, tuples


def systems() -> dict[str, Evaluation]:
    evaluator = InformationRetrievalEvaluator()
    bm25 = evaluator.baselines({"x": pairs()}, similarity="cosine")["bm25"]
    before, after = (evaluator(ToyModel(noise=n), pairs(), batch_size=8) for n in (3.0, 0.5))
    return {"before": before, "after": after, "bm25": bm25}


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_all_files_of_a_retrieval_evaluation(tmp_path: Path) -> None:
    given = systems()
    write_evaluation(tmp_path / "dev", given)
    assert listing(tmp_path) == [
        f"dev/{name}"
        for name in (
            "details.json",
            "examples.json",
            "metrics.json",
            "per_query.jsonl",
            "qrels.trec",
            "run.trec",
            "run_before.trec",
            "run_bm25.trec",
        )
    ]
    found = json.loads((tmp_path / "dev/metrics.json").read_text())
    assert found["evaluator"] == "information_retrieval" and found["primary"] == "cosine_ndcg@10"
    assert found["num_queries"] == given["after"].num_queries and "num_rows" not in found
    assert {name: result.metrics for name, result in given.items()} == found["systems"]
    gain = found["differences"]["after-before"]
    assert gain["metric"] == "cosine_ndcg@10"
    assert gain["mean"] == pytest.approx(given["after"].primary_value - given["before"].primary_value, abs=1e-12)
    assert 0 < gain["low"] < gain["mean"] < gain["high"] and gain["p"] < 0.05
    assert set(found["differences"]) == {"after-before", "after-bm25"}


def test_scores_of_each_query_stand_side_by_side(tmp_path: Path) -> None:
    given = systems()
    write_evaluation(tmp_path / "dev", given)
    lines = [json.loads(line) for line in (tmp_path / "dev/per_query.jsonl").read_text().splitlines()]
    assert len(lines) == given["after"].num_queries
    for line, before, after in zip(lines, given["before"].per_query or [], given["after"].per_query or [], strict=True):
        assert line["query_id"] == before["query_id"] and line["query"] == before["query"]
        assert line["systems"]["before"]["ndcg@10"] == before["ndcg@10"]
        assert line["systems"]["after"]["rank"] == after["rank"]
        assert set(line["systems"]) == {"before", "after", "bm25"}


def test_runs_strictly_fall_and_keep_the_order(tmp_path: Path) -> None:
    result = InformationRetrievalEvaluator()(Collapsed(), pairs(), batch_size=8)
    write_evaluation(tmp_path / "dev", {"after": result})
    rows = [line.split() for line in (tmp_path / "dev/run.trec").read_text().splitlines()]
    assert len(rows) > 1000 and all(len(row) == 6 and row[1] == "Q0" and row[5] == "after" for row in rows)
    for one, two in itertools.pairwise(rows):
        if one[0] == two[0]:
            assert int(two[3]) == int(one[3]) + 1 and float(two[4]) < float(one[4])


def test_strictly_falling_scores_move_as_little_as_possible() -> None:
    assert strictly_falling(np.array([0.5, 0.25], dtype=np.float32)) == [0.5, 0.25]
    tied = strictly_falling(np.array([0.0, 0.0, 0.0, -1.0], dtype=np.float32))
    assert tied[0] == 0 > tied[1] > tied[2] > -1e-40 and tied[3] == -1


def test_undefined_values_are_null(tmp_path: Path) -> None:
    evaluator = EmbeddingSimilarityEvaluator()
    write_evaluation(
        tmp_path / "sts", {"before": evaluator(Collapsed(), scored(), batch_size=8), "after": evaluator(ToyModel(), scored(), batch_size=8)}
    )
    assert listing(tmp_path) == ["sts/details.json", "sts/metrics.json", "sts/per_row.jsonl"]
    found = json.loads((tmp_path / "sts/metrics.json").read_text())
    assert found["systems"]["before"]["spearman_cosine"] is None and found["systems"]["after"]["spearman_cosine"] > 0.5
    assert found["num_rows"] == 60 and found["differences"] == {}
    rows = [json.loads(line) for line in (tmp_path / "sts/per_row.jsonl").read_text().splitlines()]
    said = [row["systems"]["after"][0] for row in rows]
    assert found["row_metric"] == "best_spearman" and len(rows) == 60 and set(rows[0]["systems"]) == {"before", "after"}
    assert spearman([row["label"] for row in rows], said) == found["systems"]["after"]["spearman_cosine"]


def test_parts_have_folders_of_their_own(tmp_path: Path) -> None:
    evaluator = SequentialEvaluator(evaluators={"ir": InformationRetrievalEvaluator(), "t": TripletEvaluator()})
    bm25 = evaluator.baselines({"x": tuples()}, similarity="cosine")["bm25"]
    assert math.isnan(bm25.primary_value)
    write_evaluation(tmp_path / "all", {"after": evaluator(ToyModel(), tuples(), batch_size=8), "bm25": bm25})
    assert {"all/metrics.json", "all/ir/run.trec", "all/ir/run_bm25.trec", "all/t/per_query.jsonl"} <= set(listing(tmp_path))
    assert json.loads((tmp_path / "all/metrics.json").read_text())["systems"]["bm25"]["sequential_score"] is None


def test_a_new_result_replaces_the_old_one_whole(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "dev", systems())
    write_evaluation(tmp_path / "dev", {"only": systems()["before"]})
    names = ["details.json", "examples.json", "metrics.json", "per_query.jsonl", "qrels.trec", "run.trec"]
    assert listing(tmp_path) == [f"dev/{name}" for name in names]


@pytest.mark.parametrize("failing", ["_write", "_replace"])
def test_a_failure_leaves_the_old_result_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    write_evaluation(tmp_path / "dev", systems())
    before = {name: (tmp_path / name).read_text() for name in listing(tmp_path)}

    def full(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(write, failing, full)
    with pytest.raises(OSError, match="no space"):
        write_evaluation(tmp_path / "dev", {"only": systems()["before"]})
    assert {name: (tmp_path / name).read_text() for name in listing(tmp_path)} == before


def test_a_rename_that_fails_puts_the_old_result_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_evaluation(tmp_path / "dev", systems())
    before = listing(tmp_path)
    rename = Path.rename

    def fail_second(self: Path, target: Path) -> Path:
        if self.name.startswith(".writing"):
            raise OSError("gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_second)
    with pytest.raises(OSError, match="gone"):
        write_evaluation(tmp_path / "dev", systems())
    assert listing(tmp_path) == before


def test_different_queries_are_not_compared(tmp_path: Path) -> None:
    given = systems()
    other = dataclasses.replace(given["before"], per_query=(given["before"].per_query or [])[1:])
    with pytest.raises(DataError, match="not evaluated on the same queries"):
        write_evaluation(tmp_path / "dev", {"before": other, "after": given["after"]})


def test_ids_have_no_white_space() -> None:
    assert [trec_id(name) for name in ("plain-1:x", "a b", "50%", "", "t\tü")] == ["plain-1:x", "a%20b", "50%25", "%", "t%09%C3%BC"]
    assert list(run_lines({"a b": {"c d": 0.5}}, tag="t")) == ["a%20b Q0 c%20d 1 0.5 t"]


@pytest.mark.parametrize(
    ("grades", "written"),
    [([1.0, 0.0], [1, 0]), ([1.0, 0.6, 0.3], [10, 6, 3]), ([2.25, 0.5], [225, 50]), ([1 / 3, -1.0], [333333, -1000000])],
)
def test_grades_are_written_whole(grades: list[float], written: list[int]) -> None:
    lines = list(qrels_lines({"q": {f"d{i}": grade for i, grade in enumerate(grades)}}))
    assert lines == [f"q 0 d{i} {grade}" for i, grade in enumerate(written)]


def test_text_that_is_no_valid_unicode_is_written(tmp_path: Path) -> None:
    text = "lone \ud800, line \u2028"
    result = dataclasses.replace(systems()["after"], per_query=[{"query_id": text_id("q", text), "query": text, "ndcg@10": 1.0}])
    write_evaluation(tmp_path / "dev", {"after": result})
    assert json.loads((tmp_path / "dev/per_query.jsonl").read_text())["query"] == text


def test_intervals_and_differences_of_what_is_no_mean(tmp_path: Path) -> None:
    evaluator = EmbeddingSimilarityEvaluator()
    given = {name: evaluator(ToyModel(noise=n), scored(), batch_size=8) for name, n in (("before", 3.0), ("after", 0.5))}
    write_evaluation(tmp_path / "sts", given)
    found = json.loads((tmp_path / "sts/metrics.json").read_text())
    for name, result in given.items():
        interval = found["intervals"][name]
        assert interval["metric"] == "spearman_cosine" and interval["low"] < result.primary_value < interval["high"]
    difference = found["differences"]["after-before"]
    assert difference["mean"] == pytest.approx(given["after"].primary_value - given["before"].primary_value, abs=1e-12)
    assert difference["low"] < difference["mean"] < difference["high"]


def test_examples_are_the_queries_that_changed_most_with_what_was_found(tmp_path: Path) -> None:
    given = systems()
    write_evaluation(tmp_path / "dev", given)
    found = json.loads((tmp_path / "dev/examples.json").read_text())
    old = {line["query_id"]: line["ndcg@10"] for line in given["before"].per_query or []}
    change = {line["query_id"]: line["ndcg@10"] - old[line["query_id"]] for line in given["after"].per_query or []}
    gains = [e["query_id"] for e in found if e["chosen"] == "gain"]
    assert len(gains) == 5 and sorted(change.values())[-5:] == sorted(change[q] for q in gains)
    assert len(found) == len({e["query_id"] for e in found}) <= 15
    for example in found:
        word = example["query"].split()[0]
        assert [d["grade"] for d in example["relevant"]] == [1.0] * len(example["relevant"]) and example["relevant"]
        assert all(d["text"].split()[0] == word for d in example["relevant"])
        for name, docs in example["systems"].items():
            run = (given[name].run or {})[example["query_id"]]
            assert [(d["id"], d["score"]) for d in docs] == list(run.items())[:3]
            assert all((d["grade"] == 1) == (d["text"].split()[0] == word) for d in docs)


def test_examples_of_one_system_are_at_even_distances_and_short(tmp_path: Path) -> None:
    rows = pairs()
    rows.columns["positive"][0] += " very long" * 200
    result = InformationRetrievalEvaluator()(ToyModel(), rows, batch_size=8)
    write_evaluation(tmp_path / "dev", {"after": result})
    found = json.loads((tmp_path / "dev/examples.json").read_text())
    assert [e["chosen"] for e in found] == ["spread"] * 5
    texts = [d["text"] for e in found for d in (*e["relevant"], *e["systems"]["after"])]
    assert max(map(len, texts)) <= 302 and any(t.endswith(" \u2026") for t in texts)
