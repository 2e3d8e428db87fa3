"""What evaluators of dense and of sparse models may say, and which metrics there are, from values and schema alone."""

from __future__ import annotations

from typing import Any

import pytest

from stpipe.config.builtin import load_components
from stpipe.config.finding import Rules
from stpipe.config.metric_rules import evaluator_and_model, metric_names
from stpipe.config.origins import Origins
from stpipe.config.schema import Schema, build_schema, component


@pytest.fixture(scope="module")
def schema() -> Schema:
    load_components()
    return build_schema()


def rules(schema: Schema, model: str, evaluator: str, best: str | None = None, **settings: Any) -> Rules:
    """A configuration with one evaluator, all its fields at their defaults but these."""
    facts = component(schema, "evaluator", evaluator)
    assert facts is not None
    defaults = {key: node.get("default") for key, node in facts["properties"].items()}
    values = {
        "model": {"name": model},
        "evaluator": {"dev": {**defaults, "name": evaluator, **settings}},
        "trainer": {"best_metric": best, "early_stopping_patience": None, "eval_steps": None},
    }
    return Rules(values, schema, Origins())


@pytest.mark.parametrize(
    ("model", "evaluator", "settings", "message"),
    [
        ("splade", "triplet", {"truncate_dim": 8}, "is for dense models, but model 'splade' is sparse; use max_active_dims"),
        ("dense", "triplet", {"max_active_dims": 8}, "is for sparse models, but model 'dense' is dense; use truncate_dim"),
        ("dense", "information_retrieval", {"active_dims_curve": [8]}, "is for sparse models, but model 'dense' is dense; remove it"),
    ],
)
def test_settings_of_the_other_kind_are_refused(schema: Schema, model: str, evaluator: str, settings: Any, message: str) -> None:
    made = rules(schema, model, evaluator, **settings)
    evaluator_and_model(made)
    assert [(p.key, p.message) for p in made.finding.problems] == [(f"evaluator.dev.{next(iter(settings))}", message)]


@pytest.mark.parametrize(
    "evaluator", ["information_retrieval", "nano_beir", "hybrid", "embedding_similarity", "triplet", "reranking", "mse"]
)
@pytest.mark.parametrize("model", ["dense", "splade"])
def test_evaluators_are_for_both_kinds(schema: Schema, model: str, evaluator: str) -> None:
    made = rules(schema, model, evaluator)
    evaluator_and_model(made)
    metric_names(made)
    assert made.finding.problems == [] and len(made.finding.metrics) > 0


def test_the_best_metric_may_be_one_of_sparse_models(schema: Schema) -> None:
    for model, known in (("splade", True), ("dense", False)):
        made = rules(schema, model, "information_retrieval", best="dev_avg_flops")
        metric_names(made)
        assert (made.finding.problems == []) == known
    curve = rules(schema, "splade", "information_retrieval", best="dev_dot_ndcg@10_at_64_dims", active_dims_curve=[32, 64])
    metric_names(curve)
    assert curve.finding.problems == []
    widths = rules(schema, "splade", "information_retrieval", best="dev_query_active_dims")
    metric_names(widths)
    assert "neither better high nor low" in widths.finding.problems[0].message


def test_unknown_sets_of_nano_beir_are_refused_with_the_nearest(schema: Schema) -> None:
    made = rules(schema, "dense", "nano_beir", datasets=["msmarko"])
    metric_names(made)
    assert "Did you mean 'msmarco'" in made.finding.problems[0].message
