"""What sparse embeddings cost is taken from the metrics by name, and every name that evaluators give is known."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from stpipe.config.schema import load_schema, members
from stpipe.reports.run_record import EvaluationRecord
from stpipe.reports.sparsity import AT_DIMS, MEASURE, mean_widths, section_metrics, sparsity_section

BEFORE = {"query_active_dims": 40.0, "query_sparsity_ratio": 0.6, "corpus_active_dims": 0.0, "avg_flops": 8.0}
AFTER = {"query_active_dims": 10.0, "query_sparsity_ratio": 0.9, "corpus_active_dims": 20.0, "avg_flops": 6.0}
AT_4 = {"dot_ndcg@10_at_4_dims": 0.3, "query_active_dims_at_4_dims": 4.0, "corpus_active_dims_at_4_dims": 3.5, "avg_flops_at_4_dims": 1.0}
AT_16 = {
    "dot_ndcg@10_at_16_dims": 0.4,
    "query_active_dims_at_16_dims": 9.0,
    "corpus_active_dims_at_16_dims": 15.0,
    "avg_flops_at_16_dims": 3.0,
}


def evaluation(values: dict[str, dict[str, float]], *, primary: str = "dot_ndcg@10", lead: str = "") -> EvaluationRecord:
    systems = {system: {f"{lead}{name}": value for name, value in found.items()} for system, found in values.items()}
    return EvaluationRecord("dev", "information_retrieval", f"{lead}{primary}", 5, "queries", systems, (), (), None)


FULL = {"before": {"dot_ndcg@10": 0.2, **BEFORE}, "after": {"dot_ndcg@10": 0.5, **AFTER, **AT_16, **AT_4}, "bm25": {"dot_ndcg@10": 0.1}}


def section(found: EvaluationRecord) -> dict[str, Any]:
    made = sparsity_section(found)
    assert made is not None
    return made


@pytest.mark.parametrize("lead", ["", "NanoBEIR_mean_"])
def test_measures_with_their_changes(lead: str) -> None:
    measures = {m["name"]: m for m in section(evaluation(FULL, lead=lead))["measures"]}
    assert list(measures) == [f"{lead}{name}" for name in BEFORE]
    assert measures[f"{lead}query_active_dims"] == {
        "name": f"{lead}query_active_dims",
        "label": "Active dimensions of a query",
        "values": {"before": 40.0, "after": 10.0},
        "change": -0.75,
    }
    assert [m["change"] for m in measures.values()] == [-0.75, None, None, -0.25]  # a share; from nothing to something


@pytest.mark.parametrize("lead", ["", "NanoBEIR_mean_"])
def test_the_curve_rises_and_ends_without_a_cut(lead: str) -> None:
    (curve,) = section(evaluation(FULL, lead=lead))["curves"]
    assert (curve["metric"], [p["dims"] for p in curve["points"]]) == (f"{lead}dot_ndcg@10", [4, 16, None])
    first, _, last = curve["points"]
    assert first == {
        "dims": 4,
        "values": {"after": 0.3},
        "query_active_dims": {"after": 4.0},
        "corpus_active_dims": {"after": 3.5},
        "avg_flops": {"after": 1.0},
    }
    assert last["values"] == {"before": 0.2, "after": 0.5, "bm25": 0.1}
    assert last["corpus_active_dims"] == {"before": 0.0, "after": 20.0}


def test_a_section_shows_all_but_the_quality() -> None:
    found = evaluation(FULL)
    names = {name for values in found.systems.values() for name in values}
    assert names - section_metrics(section(found)) == {"dot_ndcg@10"}
    assert section_metrics(None) == frozenset()


def test_of_joined_evaluators_only_what_goes_with_the_primary_metric() -> None:
    """The mean of NanoBEIR and not its sets; nothing where the primary metric is a score of its own."""
    sets = {f"NanoX_{name}": 2 * value for name, value in AFTER.items()}
    mean = {f"NanoBEIR_mean_{name}": value for name, value in AFTER.items()}
    joined = EvaluationRecord("n", "nano_beir", "NanoBEIR_mean_dot_ndcg@10", 5, "queries", {"after": {**sets, **mean}}, (), (), None)
    assert [m["name"] for m in section(joined)["measures"]] == list(mean)
    outer = EvaluationRecord("s", "sequential", "sequential_score", 5, "queries", {"after": sets}, (), (), None)
    assert sparsity_section(outer) is None


def test_dense_models_have_none() -> None:
    assert sparsity_section(evaluation({"after": {"dot_ndcg@10": 0.5, "dot_mrr@10": 0.5}})) is None


def test_mean_widths_come_from_the_first_that_measured_them() -> None:
    both = [None, sparsity_section(evaluation({"after": {"avg_flops": 1.0}})), sparsity_section(evaluation(FULL))]
    assert mean_widths(both) == {"a query": 10.0, "a document": 20.0}
    plain = evaluation({"after": {"active_dims": 7.0}}, primary="spearman_dot")
    assert mean_widths([sparsity_section(plain)]) == {"a text": 7.0}
    assert mean_widths([None]) == {}


def sparse_names() -> list[str]:
    """Every metric that some evaluator has for sparse models only, with one value for each placeholder."""
    facts = [d["x-metrics"]["metrics"] for d in members(load_schema(), "evaluator")]
    return [
        item["name"].format(similarity="dot", k=10, **dict.fromkeys(item.get("over", {}), 16))
        for item in itertools.chain.from_iterable(facts)
        if item.get("kinds") == ["sparse"]
    ]


def test_every_metric_of_sparse_models_is_known() -> None:
    names = sparse_names()
    assert len(set(names)) > 15
    assert [n for n in names if MEASURE.fullmatch(n) is None and AT_DIMS.fullmatch(n) is None] == []
    assert sum(AT_DIMS.fullmatch(n) is not None for n in set(names)) >= 4
