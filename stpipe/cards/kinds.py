"""Kinds of models: what distinguishes their cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from stpipe.cards.model_files import ModelFacts
from stpipe.config.schema import component
from stpipe.reports.run_record import RunRecord


@dataclass(frozen=True)
class CardKind:
    """What distinguishes the cards of one type of model.

    name: "dense", "sparse" or "cross_encoder"; template: file in templates/; pipeline_tag: task on the Hub; tags: of the Hub; noun: what to call the model;
    task_prefix: stands before the names of evaluation tasks.
    """

    name: str
    template: str
    pipeline_tag: str
    tags: tuple[str, ...]
    noun: str
    task_prefix: str = ""


DENSE = CardKind(
    "dense",
    "dense.md.j2",
    "sentence-similarity",
    ("sentence-transformers", "sentence-similarity", "feature-extraction", "dense"),
    "dense embedding model",
)
SPARSE = CardKind(
    "sparse",
    "sparse.md.j2",
    "feature-extraction",
    ("sentence-transformers", "sparse-encoder", "sparse"),
    "sparse encoder",
    task_prefix="sparse-",
)
CROSS_ENCODER = CardKind(
    "cross_encoder",
    "cross_encoder.md.j2",
    "text-ranking",
    ("sentence-transformers", "cross-encoder", "reranker"),
    "reranker (cross-encoder)",
)
CLASSIFIER = CardKind(
    "cross_encoder",
    "cross_encoder.md.j2",
    "text-classification",
    ("sentence-transformers", "cross-encoder"),
    "classifier of pairs of texts (cross-encoder)",
)
KINDS: Mapping[str, CardKind] = {"dense": DENSE, "sparse": SPARSE, "cross_encoder": CROSS_ENCODER}
#: Module of a sparse model -> its tag, in the order of sentence-transformers' cards.
SPARSE_MODULES: Mapping[str, str] = {
    "Router": "asymmetric",
    "SparseStaticEmbedding": "inference-free",
    "SpladePooling": "splade",
    "SparseAutoEncoder": "csr",
}
#: Tags that together have a name, the longest first.
SPARSE_NOUNS: Mapping[frozenset[str], str] = {
    frozenset({"inference-free", "splade"}): "inference-free SPLADE model",
    frozenset({"splade"}): "SPLADE model",
    frozenset({"csr"}): "CSR model (contrastive sparse representation)",
}


def card_kind(record: RunRecord, model: ModelFacts, schema: Mapping[str, Any]) -> CardKind:
    """The kind that the model directory states, else that of the configured component; dense where neither is known."""
    chosen = component(dict(schema), "model", record.section("model").get("name")) or {}
    kind = KINDS.get(model.kind or str(chosen.get("x-kind")), DENSE)
    if kind is CROSS_ENCODER and len(model.labels) > 1:
        return CLASSIFIER
    return _with_modules(kind, model) if kind is SPARSE else kind


def _with_modules(kind: CardKind, model: ModelFacts) -> CardKind:
    """A sparse model by what it is made of."""
    names = {m.name for m in model.modules}
    tags = tuple(tag for module, tag in SPARSE_MODULES.items() if module in names)
    noun = next((noun for parts, noun in SPARSE_NOUNS.items() if parts <= set(tags)), kind.noun)
    return replace(kind, tags=(*kind.tags, *tags), noun=noun)
