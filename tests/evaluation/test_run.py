"""All evaluators of a run."""

from __future__ import annotations

import pytest

from stpipe.config.errors import ConfigError
from stpipe.evaluation import BinaryClassificationEvaluator, EmbeddingSimilarityEvaluator, Evaluator, InformationRetrievalEvaluator
from stpipe.evaluation.run import all_baselines, all_metrics, evaluate_all, full_metrics, greater_is_better
from tests.evaluation.toy import ToyModel, classed, pairs, scored

SOURCES = {"sts": scored(), "docs": pairs(), "same": classed()}
EVALUATORS: dict[str, Evaluator] = {
    "sts_dev": EmbeddingSimilarityEvaluator(source="sts"),
    "dev": InformationRetrievalEvaluator(source="docs"),
    "dups": BinaryClassificationEvaluator(source="same"),
}


def test_full_names_are_known_before_and_carry_the_evaluators_name() -> None:
    results = evaluate_all(ToyModel(), EVALUATORS, SOURCES, batch_size=8)
    found = full_metrics(results)
    assert list(results) == list(EVALUATORS)
    assert found["dev_cosine_ndcg@10"] == results["dev"].primary_value
    names = [name for metrics in all_metrics(EVALUATORS, similarity="cosine").values() for name in metrics.names]
    assert sorted(names) == sorted(found) and len(names) == len(set(names)) > 20


def test_baselines_of_those_that_rank() -> None:
    found = all_baselines(EVALUATORS, SOURCES, similarity="cosine")
    assert {name: list(systems) for name, systems in found.items()} == {"sts_dev": [], "dev": ["bm25"], "dups": []}


def test_directions_of_full_names() -> None:
    assert greater_is_better(EVALUATORS, "sts_dev_spearman_dot", similarity="dot")
    with pytest.raises(ConfigError, match="neither better high nor low"):
        greater_is_better(EVALUATORS, "dups_cosine_f1_threshold", similarity="cosine")
    with pytest.raises(ConfigError, match=r"trainer.best_metric: unknown metric 'dev_ndcg@10'. Did you mean 'dev_cosine_ndcg@10'"):
        greater_is_better(EVALUATORS, "dev_ndcg@10", similarity="cosine")
