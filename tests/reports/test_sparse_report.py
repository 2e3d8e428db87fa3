"""The report of a sparse model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stpipe.evaluation import InformationRetrievalEvaluator, SequentialEvaluator
from stpipe.evaluation.write import write_evaluation
from tests.evaluation.toy import SparseToy, pairs
from tests.reports.test_report import Page, change, report


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, synthetic: Any) -> tuple[Page, dict[str, Any]]:
    return report(synthetic.make_sparse_run(tmp_path_factory.mktemp("sparse") / "run"))


def test_the_page_says_how_sparse_the_model_is(written: tuple[Page, dict[str, Any]]) -> None:
    page, document = written
    for expected in (
        "Active dimensions 31.2 of a query, 125 of a document",
        "Active dimensions of a query 350 31.2 \u221291.1%",
        "Share of zeros in a document 0.9541 0.9959 \u2013",
        "Multiplications of a query with a document (FLOPS) 14 1.25 \u221291.1%",
        "Documents in the longest posting list 90 90 0.0%",
        "Calibrated: 29,505 active words a text before, 715 after, of 30,522",
        "Start weights: 2.8% of the words active <b>",
        "no cut",
    ):
        assert expected in page.text, expected
    ndcg = next(m for m in document["evaluations"][0]["metrics"] if m["name"] == "dot_ndcg@10")["values"]
    cut = {s: f"{v * (1 - 1 / 32):.4f}" for s, v in ndcg.items()}
    assert f"32 {cut['before']} {cut['after']} 31.2 32 0.320" in page.text
    assert f"no cut {ndcg['before']:.4f} {ndcg['after']:.4f} 31.2 125 1.25" in page.text


def test_costs_do_not_stand_among_the_quality(written: tuple[Page, dict[str, Any]]) -> None:
    page, document = written
    text = page.text.replace("_ ", "_")  # names may be broken there
    (evaluation,) = document["evaluations"]
    assert {"query_active_dims", "dot_ndcg@10_at_8_dims"} <= {m["name"] for m in evaluation["metrics"]}
    for name in ("query_active_dims", "posting_list_max", "at_8_dims"):
        assert name not in text
    assert "dot_mrr@10" in text


def test_the_target_and_what_came_of_it(written: tuple[Page, dict[str, Any]]) -> None:
    page, document = written
    (target,) = document["training"]["targets"]
    curve = document["training"]["curves"]["document_active_dims"]
    reached = sum(value for _, value in curve[-20:]) / 20
    assert target == {"metric": "document_active_dims", "target": 120.0, "reached": pytest.approx(reached)}
    assert abs(reached - 125) < 5
    assert f"Steered: document_active_dims to 120; over the last tenth of the log it was {reached:,.0f} (" in page.text


def test_the_figures_of_sparsity_follow_the_loss(written: tuple[Page, dict[str, Any]]) -> None:
    page, _ = written
    alternatives = [i for i in page.values("id") if i.endswith("-title")]
    assert len(alternatives) == len(set(alternatives))
    order = [i for i in alternatives if i in {"loss-title", "active-title", "weights-title", "trade-off-0-0-title", "curve-0-title"}]
    assert order == ["trade-off-0-0-title", "loss-title", "active-title", "weights-title", "curve-0-title"]
    assert "documents, target 120" in page.text
    for caption in ("Active dimensions of a text", "Weights of the regularisers", "Regulariser of the queries before its weight"):
        assert caption in page.text


def test_without_a_target_and_without_a_curve(sparse_run_dir: Path) -> None:
    change(sparse_run_dir / "plan.json", targets={}, start=[])
    path = sparse_run_dir / "evaluation" / "dev" / "metrics.json"
    systems = json.loads(path.read_text(encoding="utf-8"))["systems"]
    change(path, systems={s: {k: v for k, v in values.items() if "_dims" not in k or "_at_" not in k} for s, values in systems.items()})
    page, document = report(sparse_run_dir)
    assert document["evaluations"][0]["sparsity"]["curves"] == []
    for absent in ("Steered", "Before the first step", "no cut", "target 120"):
        assert absent not in page.text
    assert "Active dimensions of a document 1,400 125" in page.text


def test_a_dense_run_has_no_word_of_it(run_dir: Path) -> None:
    page, document = report(run_dir)
    assert document["evaluations"][0]["sparsity"] is None
    assert document["training"]["targets"] == []
    for absent in ("sparsity", "Active dimensions", "Steered", "Before the first step"):
        assert absent not in page.text


def test_what_evaluators_really_write_is_read(sparse_run_dir: Path) -> None:
    """Alone and inside another evaluator, with the names and numbers of the evaluator itself."""
    alone = InformationRetrievalEvaluator(active_dims_curve=(2, 8))
    results = {system: alone(SparseToy("dot"), pairs(), batch_size=8) for system in ("before", "after")}
    write_evaluation(sparse_run_dir / "evaluation" / "dev", results)
    inside = SequentialEvaluator(evaluators={"ir": alone})
    write_evaluation(sparse_run_dir / "evaluation" / "both", {"after": inside(SparseToy("dot"), pairs(), batch_size=8)})
    page, document = report(sparse_run_dir)
    sections = {e["name"]: e["sparsity"] for e in document["evaluations"]}
    assert sections["both"] is None
    for name in ("dev", "both/ir"):
        measures = {m["name"]: m["values"]["after"] for m in sections[name]["measures"]}
        assert len(measures) == 8
        assert measures == {k: pytest.approx(results["after"].metrics[k]) for k in measures}
        (curve,) = sections[name]["curves"]
        values = {f"dot_ndcg@10_at_{p['dims']}_dims": p["values"]["after"] for p in curve["points"][:-1]}
        assert len(values) == 2
        assert values == {k: pytest.approx(results["after"].metrics[k]) for k in values}
        assert curve["points"][-1]["values"]["after"] == pytest.approx(results["after"].metrics["dot_ndcg@10"])
    assert "ir_dot_mrr@10" not in page.text.replace("_ ", "_")
