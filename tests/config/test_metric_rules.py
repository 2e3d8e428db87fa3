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


def rules(
    schema: Schema, model: str, evaluator: str, best: str | None = None, *, more: dict[str, Any] | None = None, **settings: Any
) -> Rules:
    """A configuration with one evaluator, all its fields at their defaults but these; `more` are other sections."""
    facts = component(schema, "evaluator", evaluator)
    assert facts is not None
    defaults = {key: node.get("default") for key, node in facts["properties"].items()}
    values = {
        "model": {"name": model},
        "evaluator": {"dev": {**defaults, "name": evaluator, **settings}},
        "trainer": {"best_metric": best, "early_stopping_patience": None, "eval_steps": None},
        **(more or {}),
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


CROSS_ENCODERS = ["cross_encoder_classification", "cross_encoder_correlation", "cross_encoder_reranking", "cross_encoder_nano_beir"]


def reranker(num_labels: int | None, loss: str = "binary_cross_entropy") -> dict[str, Any]:
    """Sections of a run of a cross-encoder."""
    data = {"loss": None, "train": None, "format": None, "columns": {}}
    return {"model": {"name": "cross_encoder", "num_labels": num_labels}, "loss": {"name": loss}, "dataset": data}


@pytest.mark.parametrize("evaluator", CROSS_ENCODERS)
def test_evaluators_of_pairs_are_for_cross_encoders(schema: Schema, evaluator: str) -> None:
    made = rules(schema, "cross_encoder", evaluator, more=reranker(1))
    evaluator_and_model(made)
    metric_names(made)
    assert made.finding.problems == [] and len(made.finding.metrics) > 1
    dense = rules(schema, "dense", evaluator)
    evaluator_and_model(dense)
    assert [p.message for p in dense.finding.problems] == [f"evaluator '{evaluator}' is for cross_encoder models, not for model 'dense'"]
    embeddings = rules(schema, "cross_encoder", "information_retrieval", more=reranker(1))
    evaluator_and_model(embeddings)
    assert "is for dense, sparse models, not for model 'cross_encoder'" in embeddings.finding.problems[0].message


@pytest.mark.parametrize(
    ("num_labels", "loss", "known", "unknown"),
    [
        (1, "binary_cross_entropy", "dev_average_precision", "dev_f1_macro"),
        (3, "cross_entropy", "dev_f1_macro", "dev_average_precision"),
        (None, "cross_entropy", "dev_f1_macro", "dev_f1"),
        (None, "binary_cross_entropy", "dev_f1", "dev_f1_macro"),
        (None, "cross_entropy", "dev_accuracy", "dev_acuracy"),
    ],
)
def test_metrics_of_a_classification_follow_from_the_outputs(
    schema: Schema, num_labels: int | None, loss: str, known: str, unknown: str
) -> None:
    for best, problems in ((known, 0), (unknown, 1)):
        made = rules(schema, "cross_encoder", "cross_encoder_classification", best=best, more=reranker(num_labels, loss))
        metric_names(made)
        assert len(made.finding.problems) == problems
    assert f"unknown metric '{unknown}'" in made.finding.problems[0].message


@pytest.mark.parametrize("evaluator", CROSS_ENCODERS[1:])
def test_classes_put_nothing_in_order(schema: Schema, evaluator: str) -> None:
    for num_labels, loss in ((3, "cross_entropy"), (None, "cross_entropy")):
        made = rules(schema, "cross_encoder", evaluator, more=reranker(num_labels, loss))
        evaluator_and_model(made)
        assert [p.key for p in made.finding.problems] == ["evaluator.dev.name"]
        assert "needs one score for each pair" in made.finding.problems[0].message


def test_no_model_is_chosen_by_the_order_that_was_there_before(schema: Schema) -> None:
    made = rules(schema, "cross_encoder", "cross_encoder_reranking", best="dev_base_ndcg@10", more=reranker(1))
    metric_names(made)
    assert "neither better high nor low. Use dev_ndcg@10" in made.finding.problems[0].message
