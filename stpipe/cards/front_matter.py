"""The YAML at the top of a card, which the Hub reads. Holds what the run knows; nothing is guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from stpipe.cards.kinds import CardKind
from stpipe.cards.losses import LossFacts
from stpipe.reports.quality import BASE_ORDER
from stpipe.reports.run_record import RunRecord, mapping
from stpipe.reports.sparsity import AT_DIMS

LIBRARY = "sentence-transformers"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
# Task names as the Hub shows them, by registered evaluator.
TASKS: Mapping[str, tuple[str, str]] = {
    "information_retrieval": ("information-retrieval", "Information Retrieval"),
    "reranking": ("reranking", "Reranking"),
    "embedding_similarity": ("semantic-similarity", "Semantic Similarity"),
    "triplet": ("triplet", "Triplet"),
    "binary_classification": ("binary-classification", "Binary Classification"),
    "mse": ("knowledge-distillation", "Knowledge Distillation"),
    "sequential": ("sequential-evaluation", "Sequential Evaluation"),
    "nano_beir": ("nano-beir", "Nano BEIR"),
    "reciprocal_rank_fusion": ("reciprocal-rank-fusion", "Reciprocal Rank Fusion"),
    "hybrid": ("hybrid-search", "Hybrid Search"),
    "cross_encoder_classification": ("cross-encoder-classification", "Cross Encoder Classification"),
    "cross_encoder_correlation": ("cross-encoder-correlation", "Cross Encoder Correlation"),
    "cross_encoder_reranking": ("cross-encoder-reranking", "Cross Encoder Reranking"),
    "cross_encoder_nano_beir": ("cross-encoder-nano-beir", "Cross Encoder Nano BEIR"),
}
# Tasks that sentence-transformers names after the kind of model.
KIND_TASKS = frozenset({"information_retrieval", "reranking", "triplet", "binary_classification", "nano_beir"})


def front_matter(record: RunRecord, losses: tuple[LossFacts, ...], *, title: str, kind: CardKind) -> str:
    """The YAML between the dashes.

    Args:
        record: the run.
        losses: its losses.
        title: name of the model.
        kind: the type of model.
    """
    card = record.section("card")
    results = list(_results(record, kind))
    fields: dict[str, Any] = {
        "language": _listed(card.get("language")),
        "license": card.get("license"),
        "library_name": LIBRARY,
        "pipeline_tag": kind.pipeline_tag,
        "tags": [*kind.tags, *_run_tags(record, losses)],
        "base_model": hub_id(record.section("model").get("name_or_path")),
        "datasets": list(dict.fromkeys(d for source in data_sources(record) if (d := hub_id(source)))) or None,
        "metrics": list(dict.fromkeys(r.metric_type for r in results)) or None,
    }
    if results:
        fields |= {"model_name": title, "eval_results": results}  # together they make the model-index
    return ModelCardData(**{k: v for k, v in fields.items() if v}).to_yaml().strip()


def hub_id(name: Any) -> str | None:
    """`name` when it can only be a Hub id: organisation and name, no scheme, nothing on this disk."""
    if (
        not isinstance(name, str)
        or HUB_ID.fullmatch(name) is None
        or ".." in name
        or Path(name).suffix in (".jsonl", ".json", ".csv", ".parquet")
    ):
        return None
    return None if Path(name).exists() else name


def data_sources(record: RunRecord) -> list[str]:
    """Where the training data of each data set came from, as configured."""
    sources = [mapping(d).get("source") for d in mapping(record.environment.get("data")).values()]
    return [str(s) for s in sources if s]


def task(evaluator: str, *, prefix: str = "") -> tuple[str, str]:
    """Type and name of an evaluator's task for the Hub, with the prefix of the kind of model where the Hub's names have it; a
    user's own evaluator is its own task."""
    kind, name = TASKS.get(evaluator, (evaluator.replace("_", "-").lower(), evaluator.replace("_", " ")))
    if evaluator not in KIND_TASKS:
        return kind, name
    return prefix + kind, prefix.replace("-", " ").title() + name


def _run_tags(record: RunRecord, losses: tuple[LossFacts, ...]) -> list[str]:
    rows = [mapping(d).get("rows") for d in mapping(record.environment.get("data")).values()]
    counts = [r for r in rows if isinstance(r, int)]
    size = [f"dataset_size:{sum(counts)}"] if counts and len(counts) == len(rows) else []
    return ["generated_from_trainer", "stpipe", *size, *dict.fromkeys(f"loss:{n}" for loss in losses for n in loss.names)]


def _results(record: RunRecord, kind: CardKind) -> Iterator[EvalResult]:
    """Metrics of the trained model. Values that are not numbers stay out, the Hub refuses them, and so do those of vectors that
    were cut, which are not what the model gives, and those of the order that a reranker was given."""
    for evaluation in record.evaluations:
        task_type, name = task(evaluation.evaluator, prefix=kind.task_prefix)
        for metric, value in evaluation.systems.get("after", {}).items():
            if math.isfinite(value) and AT_DIMS.fullmatch(metric) is None and BASE_ORDER not in metric:
                yield EvalResult(
                    task_type=task_type,
                    task_name=name,
                    dataset_type=evaluation.name,
                    dataset_name=evaluation.name.replace("_", " ").replace("-", " "),
                    metric_type=metric,
                    metric_name=metric.replace("_", " ").title(),
                    metric_value=value,
                )


def _listed(value: Any) -> Any:
    """One code, or a list of them when they are separated by commas."""
    parts = [p.strip() for p in str(value).split(",") if p.strip()] if value else []
    return parts if len(parts) > 1 else next(iter(parts), None)
