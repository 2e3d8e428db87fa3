"""Run directories with results of evaluators, without a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.metrics import best_spearman, spearman
from stpipe.evaluation.significance import RowMetric
from stpipe.evaluation.write import write_evaluation

QUERIES = [f"what is number {i}?" for i in range(60)]


def retrieval(scores: Sequence[float], *, texts: Sequence[str] = QUERIES, grade: int = 1) -> Evaluation:
    """A retrieval result with these scores of the queries q0, q1, ..."""
    lines = [
        {"query_id": f"q{i}", "query": text, "ndcg@10": float(score), "mrr@10": float(score) / 2, "rank": 1}
        for i, (text, score) in enumerate(zip(texts, scores, strict=False))
    ]
    mean = sum(line["ndcg@10"] for line in lines) / len(lines)
    return Evaluation(
        {"cosine_ndcg@10": mean, "cosine_mrr@10": mean / 2},
        "cosine_ndcg@10",
        evaluator="information_retrieval",
        num_queries=len(lines),
        per_query=lines,
        query_metric="ndcg@10",
        qrels={line["query_id"]: {"d": grade} for line in lines},
    )


def correlation(labels: Sequence[float], *scores: Sequence[float]) -> Evaluation:
    """A result of scored pairs."""
    columns = tuple(np.asarray(column, dtype=np.float64) for column in (labels, *scores))
    value = best_spearman(*columns)
    metrics = {"spearman_cosine": value, "pearson_cosine": spearman(columns[0], columns[1])}
    return Evaluation(
        metrics, "spearman_cosine", evaluator="embedding_similarity", num_rows=len(labels), resample=RowMetric(best_spearman, columns)
    )


def make_run(directory: Path, evaluations: Mapping[str, Evaluation], *, config: Mapping[str, Any] | None = None) -> Path:
    """A finished run's directory with these results of its trained model."""
    directory.mkdir(parents=True)
    evaluators = {name: {"name": result.evaluator} for name, result in evaluations.items()}
    values = {
        "model": {"name": "dense", "name_or_path": "a/b"},
        "loss": {"name": "mnrl"},
        "evaluator": evaluators,
        "run": {"name": directory.name},
    }
    (directory / "config.yaml").write_text(yaml.safe_dump({**values, **(config or {})}), encoding="utf-8")
    (directory / "status.json").write_text(json.dumps({"state": "finished", "exit_code": 0, "step": 10}), encoding="utf-8")
    (directory / "environment.json").write_text(json.dumps({"packages": {"torch": "2"}}), encoding="utf-8")
    for name, result in evaluations.items():
        write_evaluation(directory / "evaluation" / name, {"after": result})
    return directory
