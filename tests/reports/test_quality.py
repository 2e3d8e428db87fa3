"""Differences are judged by their intervals, queries are sorted by what they gained."""

from __future__ import annotations

from typing import Any

import pytest

from stpipe.config.metrics import Better
from stpipe.reports.quality import evaluation_section, table_metrics, verdict
from stpipe.reports.run_record import Difference, EvaluationRecord, QueryRecord


@pytest.mark.parametrize(
    ("low", "high", "better", "expected"),
    [
        (0.01, 0.03, "higher", "better"),
        (-0.03, -0.01, "higher", "worse"),
        (-0.01, 0.03, "higher", "unclear"),
        (0.0, 0.03, "higher", "unclear"),
        (0.01, 0.03, "lower", "worse"),
        (-0.03, -0.01, "lower", "better"),
        (0.01, 0.03, None, "unclear"),
    ],
)
def test_verdict(low: float, high: float, better: Better, expected: str) -> None:
    assert verdict(Difference("after", "before", "x", (low + high) / 2, low, high), better=better) == expected


def evaluation(scores: dict[str, tuple[float, float]], *, systems: tuple[str, str] = ("before", "after")) -> EvaluationRecord:
    queries = tuple(
        QueryRecord(q, f"text of {q}", {s: {"ndcg@10": v} for s, v in zip(systems, pair, strict=True)}) for q, pair in scores.items()
    )
    values = {s: {"accuracy@1": 0.25, "ndcg@10": 0.5 + i} for i, s in enumerate(systems)}
    return EvaluationRecord("dev", "information_retrieval", "ndcg@10", len(scores), "queries", values, (), queries, "ndcg@10")


def compared(scores: dict[str, tuple[float, float]]) -> dict[str, Any]:
    (found,) = evaluation_section(evaluation(scores), {})["queries"]
    return found


def test_gains_and_losses_are_sorted_and_counted() -> None:
    found = compared({"a": (0.5, 0.6), "b": (0.5, 0.9), "c": (0.5, 0.5), "d": (0.5, 0.1), "e": (0.5, 0.4)})
    assert [c["query_id"] for c in found["gains"]] == ["b", "a"]
    assert [c["query_id"] for c in found["losses"]] == ["d", "e"]
    assert (found["better"], found["worse"], found["equal"]) == (2, 2, 1)
    assert sum(found["histogram"]["counts"]) == 4


def test_the_histogram_is_symmetric_and_keeps_its_ends() -> None:
    found = compared({"a": (0.0, 1.0), "b": (1.0, 0.0)})
    edges, counts = found["histogram"]["edges"], found["histogram"]["counts"]
    assert (edges[0], edges[-1]) == pytest.approx((-1, 1))
    assert (counts[0], counts[-1]) == (1, 1)


def test_equal_queries_make_no_histogram() -> None:
    assert sum(compared({"a": (0.5, 0.5)})["histogram"]["counts"]) == 0


def test_systems_without_common_scores_are_not_compared() -> None:
    assert evaluation_section(evaluation({"a": (0.1, 0.2)}, systems=("after", "other")), {})["queries"] == []


def test_the_primary_metric_comes_first_with_its_change_and_direction() -> None:
    metrics = evaluation_section(evaluation({"a": (0.1, 0.2)}), {"dev_ndcg@10": "higher"})["metrics"]
    assert [m["name"] for m in metrics] == ["ndcg@10", "accuracy@1"]
    assert (metrics[0]["change"], metrics[0]["better"], metrics[1]["better"]) == (1.0, "higher", None)


def test_a_table_leaves_out_what_stands_elsewhere() -> None:
    """Metrics of an evaluator inside, and costs of sparse embeddings; never the primary metric."""
    values = {"score": 0.5, "in_ndcg@10": 0.5, "in_deep_mrr": 0.1, "query_active_dims": 9.0, "query_active_dims_at_4_dims": 4.0}
    outer = EvaluationRecord("dev", "sequential", "score", 3, "queries", {"after": values}, (), (), None)
    inner = EvaluationRecord("dev/in", "information_retrieval", "ndcg@10", 3, "queries", {"after": {"ndcg@10": 0.5}}, (), (), None)
    deep = EvaluationRecord("dev/in/deep", "reranking", "mrr", 3, "queries", {"after": {"mrr": 0.1}}, (), (), None)
    other = EvaluationRecord("dev2/x", "reranking", "score", 3, "queries", {"after": {"score": 0.1}}, (), (), None)
    sections = [evaluation_section(e, {}) for e in (outer, inner, deep, other)]
    assert [m["name"] for m in table_metrics(sections[0], sections)] == ["score", "query_active_dims_at_4_dims"]
    assert [m["name"] for m in table_metrics(sections[1], sections)] == ["ndcg@10"]
    assert len(sections[0]["metrics"]) == 5


@pytest.mark.parametrize("base", ["base", "bm25"])
def test_the_order_that_a_reranker_was_given_is_a_column_and_no_row(base: str) -> None:
    after = {"ndcg@10": 0.7, "base_ndcg@10": 0.5, "NanoBEIR_R100_mean_map": 0.4, "NanoBEIR_R100_mean_base_map": 0.3, "base_line": 1.0}
    systems = {"after": after, base: {"ndcg@10": 0.5, "NanoBEIR_R100_mean_map": 0.3}}
    section = evaluation_section(EvaluationRecord("dev", "cross_encoder_reranking", "ndcg@10", 3, "queries", systems, (), (), None), {})
    assert [m["name"] for m in table_metrics(section, [section])] == ["ndcg@10", "NanoBEIR_R100_mean_map", "base_line"]
    alone = EvaluationRecord("dev", "cross_encoder_reranking", "ndcg@10", 3, "queries", {"after": after}, (), (), None)
    section = evaluation_section(alone, {})
    assert len(table_metrics(section, [section])) == 5
