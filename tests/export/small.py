"""Small models of every kind on disk, real-looking rows for them, and what it takes to export them in a second or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stpipe.core.rows import Rows
from stpipe.evaluation import CrossEncoderCorrelationEvaluator, InformationRetrievalEvaluator
from stpipe.export import Source
from stpipe.models import CrossEncoder, SentenceTransformer
from stpipe.models.base_model import BaseModel
from stpipe.models.modules import Normalize, Pooling, SequenceClassifier
from tests.models.tiny import make_backbone, make_texts
from tests.models.tiny_scores import classifier, tokenizer_of
from tests.models.tiny_splade import splade_model

PROMPTS = {"query": "query : ", "document": ""}
KINDS = ("dense", "sparse", "cross_encoder")


def dense(*, seed: int = 0, mode: str = "mean", include_prompt: bool = True, family: str = "bert") -> SentenceTransformer:
    """Backbone, pooling, unit length."""
    backbone = make_backbone(family, seed=seed, num_hidden_layers=1)
    pooling = Pooling(backbone.output_dim(), mode=mode, include_prompt=include_prompt)
    return SentenceTransformer(modules=[backbone, pooling, Normalize()], device="cpu", prompts=PROMPTS)


def cross_encoder(*, family: str = "bert", num_labels: int = 1, seed: int = 0) -> CrossEncoder:
    """A backbone with a classification head."""
    backbone = SequenceClassifier(classifier(family, num_labels=num_labels, seed=seed, num_hidden_layers=1), tokenizer=tokenizer_of(family))
    return CrossEncoder(modules=[backbone], device="cpu")


def make(kind: str) -> BaseModel:
    """A model of a kind."""
    return {"dense": dense, "sparse": splade_model, "cross_encoder": cross_encoder}[kind]()


def rows(kind: str) -> dict[str, Rows]:
    """Held-out rows: pairs, for cross-encoders with scores."""
    texts = make_texts(48, longest=60)
    columns = {"anchor": texts[:24], "positive": texts[24:]}
    if kind == "cross_encoder":
        return {"default": Rows(columns, [i / 24 for i in range(24)], "pair-score", {})}
    return {"default": Rows(columns, None, "pair", {})}


def evaluators(kind: str) -> dict[str, Any]:
    """The evaluator of those rows."""
    return {"dev": CrossEncoderCorrelationEvaluator() if kind == "cross_encoder" else InformationRetrievalEvaluator()}


def source(folder: Path, model: BaseModel) -> Source:
    """The model saved in a folder, and loaded from there as exports do it."""
    model.save_pretrained(folder)
    return Source.of(folder, evaluators=evaluators(model.kind), rows=rows(model.kind))


def some_inputs(kind: str, count: int = 12) -> list[Any]:
    """Texts, or pairs, of very different length."""
    texts = make_texts(2 * count, seed=5, longest=40)
    return list(zip(texts[:count], texts[count:], strict=True)) if kind == "cross_encoder" else texts[:count]
