"""Small models that teach and guide, each in a directory of its own, and rows for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from stpipe.models.cross_encoder import CrossEncoder
from stpipe.models.modules import Dense, Pooling
from stpipe.models.sentence_transformer import SentenceTransformer
from stpipe.models.sparse_encoder import SparseEncoder
from tests.models.tiny import make_backbone, make_encoder
from tests.models.tiny_splade import make_splade
from tests.pipeline.conftest import word


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def text(i: int, length: int = 6) -> str:
    return " ".join(word(i * 3 + k) for k in range(length))


def rows_of(count: int, *, negatives: int = 0) -> list[dict[str, Any]]:
    """Rows of an anchor, a positive and some negatives; texts are of several lengths, and some occur in several rows."""
    found = []
    for i in range(count):
        row = {"anchor": text(i, 2 + i % 4), "positive": text(i * 5 + 1, 3 + i % 5)}
        row.update({f"negative_{k + 1}": text((i * 7 + k * 11) % 23, 4) for k in range(negatives)})
        found.append(row)
    return found


def dense_teacher(folder: Path, *, seed: int = 5, width: int | None = None, **stored: Any) -> Path:
    """A dense model with weights of its own; width: of its embeddings, if not that of its backbone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = make_backbone("bert", seed=seed)
        heads = [] if width is None else [Dense(32, out_features=width)]
        for parameter in backbone.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape)
    SentenceTransformer(modules=[backbone, Pooling(32), *heads], device="cpu", **stored).save_pretrained(folder)
    return folder


def sparse_teacher(folder: Path) -> Path:
    SparseEncoder(modules=list(make_splade().stack), device="cpu").save_pretrained(folder)
    return folder


def cross_teacher(folder: Path, base: Path, *, num_labels: int = 1, seed: int = 3) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CrossEncoder(str(base), num_labels=num_labels, device="cpu")
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    return folder


def student(folder: Path) -> Path:
    """The model that is trained, without dropout."""
    encoder = make_encoder("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    SentenceTransformer(modules=list(encoder.stack), device="cpu").save_pretrained(folder)
    return folder
