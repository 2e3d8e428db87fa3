"""The YAML at the top of a card, which the Hub reads. Holds what the run knows; nothing is guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from stpipe.cards.data import SentenceTransformerModelCardData
from stpipe.cards.energy import emissions
from stpipe.cards.kinds import CardKind
from stpipe.cards.places import hub_id
from stpipe.config.errors import ConfigError
from stpipe.reports.quality import BASE_ORDER
from stpipe.reports.run_record import RunRecord, mapping
from stpipe.reports.sparsity import AT_DIMS

LIBRARY = "sentence-transformers"
BLOCK = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*\n", re.S)
NOT_IN_A_TYPE = re.compile(r"[^\w.-]+")  # what the Hub refuses in the type of a data set
# Task names as the Hub shows them, by registered evaluator.
TASKS: Mapping[str, tuple[str, str]] = {
    "information_retrieval": ("information-retrieval", "Information Retrieval"),
    "reranking": ("reranking", "Reranking"),
    "embedding_similarity": ("semantic-similarity", "Semantic Similarity"),
    "triplet": ("triplet", "Triplet"),
    "binary_classification": ("binary-classification", "Binary Classification"),
    "mse": ("knowledge-distillation", "Knowledge Distillation"),
    "translation": ("translation", "Translation"),
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


def front_matter(
    record: RunRecord, data: SentenceTransformerModelCardData, *, title: str, kind: CardKind, widget: list[dict[str, Any]]
) -> str:
    """The YAML between the dashes.

    Args:
        record: the run.
        data: what it collected.
        title: name of the model.
        kind: the type of model.
        widget: examples for the Hub's widget.
    """
    results = list(_results(record, kind))
    fields: dict[str, Any] = {
        "language": _listed(data.language),
        "license": data.license,
        "library_name": data.library_name,
        "pipeline_tag": kind.pipeline_tag,
        "tags": list(dict.fromkeys([*kind.tags, *_run_tags(record), *data.tags])),
        "base_model": hub_id(data.base_model),
        "datasets": _datasets(record, data) or None,
        "metrics": list(dict.fromkeys(r.metric_type for r in results)) or None,
        "widget": widget,
        "co2_eq_emissions": emissions(data.sessions),
    }
    if results:
        fields |= {"model_name": title, "eval_results": results}  # together they make the model-index
    return ModelCardData(**{k: v for k, v in fields.items() if v}).to_yaml().strip()


def check_front_matter(text: str, *, where: str) -> None:
    """Whether the Hub's own library reads the top of a card, without asking the Hub.

    Args:
        text: the whole card.
        where: what made it, for the message.

    Raises:
        ConfigError: there is none, it is no YAML mapping, or its model-index is not one.
    """
    block = BLOCK.match(text)
    if block is None:
        raise ConfigError(f"{where}: the card does not start with front matter. Expected: a line ---, {{{{ front_matter }}}}, a line ---")
    try:
        found = yaml.safe_load(block[1])
        if not isinstance(found, Mapping):
            raise ValueError(f"expected a mapping, found {type(found).__name__}")
        ModelCard(text, ignore_metadata_errors=False)
    except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise ConfigError(f"{where}: the front matter of the card is not what the Hub reads: {error}") from error


def _datasets(record: RunRecord, data: SentenceTransformerModelCardData) -> list[str]:
    """Hub ids of the training data: as recorded, else as configured."""
    recorded = [d.get("id") for d in data.train_datasets]
    configured = [hub_id(source) for source in data_sources(record)]
    return list(dict.fromkeys(str(d) for d in (*recorded, *configured) if d))


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


def _run_tags(record: RunRecord) -> list[str]:
    """What the run was; nothing for a model of which there is no run."""
    if not record.environment and not record.status:
        return []
    rows = [mapping(d).get("rows") for d in mapping(record.environment.get("data")).values()]
    counts = [r for r in rows if isinstance(r, int)]
    size = [f"dataset_size:{sum(counts)}"] if counts and len(counts) == len(rows) else []
    return ["generated_from_trainer", "stpipe", *size]


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
                    dataset_type=NOT_IN_A_TYPE.sub("-", evaluation.name),
                    dataset_name=evaluation.name.replace("_", " ").replace("-", " "),
                    metric_type=metric,
                    metric_name=metric.replace("_", " ").title(),
                    metric_value=value,
                )


def _listed(value: Any) -> Any:
    """One code, or a list of them when they are separated by commas."""
    given = value if isinstance(value, list | tuple) else str(value or "").split(",")
    parts = [p.strip() for p in map(str, given) if p.strip()]
    return parts if len(parts) > 1 else next(iter(parts), None)
