"""All evaluators of a run at once, and the full names of what they report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.metrics import MetricSet, Outputs
from stpipe.config.suggest import unknown_name
from stpipe.core.rows import Rows
from stpipe.evaluation.base import Evaluation, Evaluator
from stpipe.evaluation.sequential import prefixed


def evaluate_all(model: Any, evaluators: Mapping[str, Evaluator], rows: Mapping[str, Rows], *, batch_size: int) -> dict[str, Evaluation]:
    """Evaluator name -> what it found.

    Args:
        model: the inference class.
        evaluators: evaluators by name.
        rows: held-out rows by name of the data set.
        batch_size: texts, or pairs of a cross-encoder, a forward.
    """
    return {name: evaluator.evaluate(model, rows, batch_size=batch_size) for name, evaluator in evaluators.items()}


def all_baselines(evaluators: Mapping[str, Evaluator], rows: Mapping[str, Rows], *, similarity: str) -> dict[str, Mapping[str, Evaluation]]:
    """Evaluator name -> system without a model ("bm25", "base") -> what it does there; empty for those that have none.

    Metrics carry the names of a model with the similarity function `similarity`, so that they stand in one table.
    """
    return {name: evaluator.baselines(rows, similarity=similarity) for name, evaluator in evaluators.items()}


def full_metrics(results: Mapping[str, Evaluation]) -> dict[str, float]:
    """All metrics of all evaluators as `{evaluator name}_{metric}`."""
    return prefixed(results)


def all_metrics(
    evaluators: Mapping[str, Evaluator], *, similarity: str, kind: str = "dense", outputs: Outputs = "one"
) -> dict[str, MetricSet]:
    """Evaluator name -> its metrics with full names."""
    return {
        name: evaluator.metric_set(similarity=similarity, kind=kind, outputs=outputs).prefixed(name)
        for name, evaluator in evaluators.items()
    }


def greater_is_better(
    evaluators: Mapping[str, Evaluator], metric: str, *, similarity: str, kind: str = "dense", outputs: Outputs = "one"
) -> bool:
    """Direction of a full metric name; an unknown name is an error that lists what exists."""
    sets = all_metrics(evaluators, similarity=similarity, kind=kind, outputs=outputs)
    for found in sets.values():
        if metric in found.names:
            return found.greater_is_better(metric)
    names = [name for found in sets.values() for name in found.names]
    raise ConfigError(Problem("trainer.best_metric", unknown_name("metric", metric, names)))
