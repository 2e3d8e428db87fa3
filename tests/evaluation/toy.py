"""A model whose embeddings depend on nothing but prompt and text, and rows of each format for it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stpipe.core.rows import Rows
from stpipe.ops.similarity import SIMILARITIES

WIDTH = 16


def direction(word: str) -> Tensor:
    """(WIDTH,) a random vector that belongs to the word."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:6], "big")
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


@dataclass
class ToyModel:
    """Texts with a first word in common are near each other; `noise` says how far the rest moves them apart."""

    kind = "dense"
    similarity_fn_name: str = "cosine"
    noise: float = 0.8
    query_prompt: str = ""
    calls: list[tuple[str, str | None, int]] = field(default_factory=list)

    def _encode(self, kind: str, texts: Sequence[str], prompt: str | None, default: str, options: dict[str, Any]) -> Tensor:
        assert options["convert_to_tensor"], "evaluators compute on tensors"
        self.calls.append((kind, prompt, len(texts)))
        used = default if prompt is None else prompt
        rows = torch.stack([direction(t.split()[0]) + self.noise * direction(used + t) for t in texts])
        return rows[:, : options.get("truncate_dim", WIDTH)]

    def encode(self, inputs: Sequence[str], *, prompt: str | None = None, batch_size: int = 32, **options: Any) -> Tensor:
        return self._encode("both", inputs, prompt, "", options)

    def encode_query(self, inputs: Sequence[str], *, prompt: str | None = None, batch_size: int = 32, **options: Any) -> Tensor:
        return self._encode("query", inputs, prompt, self.query_prompt, options)

    def encode_document(self, inputs: Sequence[str], *, prompt: str | None = None, batch_size: int = 32, **options: Any) -> Tensor:
        return self._encode("document", inputs, prompt, "", options)

    def similarity(self, a: Tensor, b: Tensor, /) -> Tensor:
        return SIMILARITIES[self.similarity_fn_name].matrix(a, b)

    def similarity_pairwise(self, a: Tensor, b: Tensor, /) -> Tensor:
        return SIMILARITIES[self.similarity_fn_name].paired(a, b)


VOCABULARY = 300


def activations(word: str, count: int) -> Tensor:
    """(VOCABULARY,) positive weights in `count` dimensions that belong to the word."""
    weights = torch.zeros(VOCABULARY)
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:6], "big")
    generator = torch.Generator().manual_seed(seed)
    weights[torch.randperm(VOCABULARY, generator=generator)[:count]] = torch.rand(count, generator=generator) + 0.05
    return weights


@dataclass
class SparseToy:
    """A sparse model: each first word activates 3 dimensions, the text as a whole another `noise`."""

    kind = "sparse"
    similarity_fn_name: str = "dot"
    noise: int = 16
    calls: list[tuple[str, str | None, int]] = field(default_factory=list)

    def dense(self, texts: Sequence[str], prompt: str | None = None) -> Tensor:
        """(N, VOCABULARY) the same embeddings as `encode`, dense."""
        return torch.stack([activations(t.split()[0], 3) + activations(f"{prompt or ''}{t}", self.noise) for t in texts])

    def _encode(self, kind: str, texts: Sequence[str], prompt: str | None, options: dict[str, Any]) -> Tensor:
        assert options["convert_to_tensor"] and options["convert_to_sparse_tensor"] and options["save_to_cpu"]
        self.calls.append((kind, prompt, len(texts)))
        rows = self.dense(texts, prompt)
        keep = options.get("max_active_dims")
        if keep is not None:
            rows = torch.where(rows >= rows.topk(keep, dim=1).values[:, -1:], rows, 0.0)
        return rows.to_sparse_coo()

    def encode(self, inputs: Sequence[str], *, prompt: str | None = None, batch_size: int = 32, **options: Any) -> Tensor:
        return self._encode("both", inputs, prompt, options)

    def encode_query(self, inputs: Sequence[str], *, prompt: str | None = None, batch_size: int = 32, **options: Any) -> Tensor:
        return self._encode("query", inputs, prompt, options)

    def encode_document(self, inputs: Sequence[str], *, prompt: str | None = None, batch_size: int = 32, **options: Any) -> Tensor:
        return self._encode("document", inputs, prompt, options)

    def similarity(self, a: Tensor, b: Tensor, /) -> Tensor:
        return SIMILARITIES[self.similarity_fn_name].matrix(a, b)

    def similarity_pairwise(self, a: Tensor, b: Tensor, /) -> Tensor:
        return SIMILARITIES[self.similarity_fn_name].paired(a, b)


def seed_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


@dataclass
class ToyScorer:
    """A cross-encoder that likes pairs with the same first word; `noise` is how far the rest moves scores, `num_labels` its outputs."""

    kind = "cross_encoder"
    similarity_fn_name = ""
    num_labels: int = 1
    noise: float = 1.0
    calls: list[tuple[str | None, list[tuple[str, str]]]] = field(default_factory=list)

    def logits(self, pairs: Sequence[tuple[str, str]], prompt: str | None = None) -> Tensor:
        """(N, num_labels) before the activation. With classes, texts that share their first word are of the class that is their number."""
        rows = []
        for first, second in pairs:
            generator = torch.Generator().manual_seed(seed_of(f"{prompt or ''}{first}|{second}"))
            row = self.noise * torch.randn(self.num_labels, generator=generator)
            word = first.split()[0]
            if second.split()[0] == word:
                row[0 if self.num_labels == 1 else int(word[1:]) % self.num_labels] += 2
            rows.append(row)
        return torch.stack(rows)

    def predict(
        self,
        inputs: Sequence[Any],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Any = None,
        convert_to_numpy: bool = True,
    ) -> Any:
        """As sentence-transformers: an array of scores, through a sigmoid where there is one."""
        assert convert_to_numpy, "evaluators compute on arrays"
        pairs = [(first, second) for first, second in inputs]
        self.calls.append((prompt, pairs))
        activation = activation_fn or (torch.nn.Sigmoid() if self.num_labels == 1 else torch.nn.Identity())
        values = activation(self.logits(pairs, prompt))
        return (values[:, 0] if self.num_labels == 1 else values).numpy()


class EqualScorer(ToyScorer):
    """Gives every pair the same score."""

    def logits(self, pairs: Sequence[tuple[str, str]], prompt: str | None = None) -> Tensor:
        return torch.ones(len(pairs), self.num_labels)


class DivergedScorer(ToyScorer):
    """Gives two pairs NaN."""

    def logits(self, pairs: Sequence[tuple[str, str]], prompt: str | None = None) -> Tensor:
        values = super().logits(pairs, prompt)
        values[:2] = torch.nan
        return values


class Collapsed(ToyModel):
    """Gives every text the same embedding."""

    def _encode(self, kind: str, texts: Sequence[str], prompt: str | None, default: str, options: dict[str, Any]) -> Tensor:
        return torch.ones(len(texts), WIDTH)


class Diverged(ToyModel):
    """Gives one text NaN."""

    def _encode(self, kind: str, texts: Sequence[str], prompt: str | None, default: str, options: dict[str, Any]) -> Tensor:
        values = super()._encode(kind, texts, prompt, default, options)
        values[0, 0] = torch.nan
        return values


def pairs(num: int = 40, **changes: Any) -> Rows:
    """Each anchor has a positive with the same first word; every fourth anchor occurs twice with another positive."""
    anchors = [f"w{i - i % 4 if i % 4 == 1 else i} ask" for i in range(num)]
    positives = [f"{a.split()[0]} answer {i}" for i, a in enumerate(anchors)]
    return Rows(**{"columns": {"anchor": anchors, "positive": positives}, "labels": None, "format": "pair", "prompts": {}, **changes})


def tuples(num: int = 40, negatives: int = 2) -> Rows:
    """Pairs with negatives, the positives of other rows among them."""
    base = pairs(num)
    columns = dict(base.columns)
    for n in range(negatives):
        columns[f"negative_{n + 1}"] = [f"w{(i + 5 * n + 3) % num} answer {(i + 5 * n + 3) % num} no" for i in range(num)]
    return Rows(columns, None, "triplet" if negatives == 1 else "n-tuple", {})


def lists(num: int = 30) -> Rows:
    """Each query with six documents graded 1.0, 0.6, 0.3 or 0.0; lists share documents and have no fixed order."""
    grades = [0.0, 0.6, 1.0, 0.3, 0.0, 0.0]
    documents = [[f"w{i if g else i + k} text {i + k} {g}" for k, g in enumerate(grades[i % 3 :])] for i in range(num)]
    return Rows(
        {"query": [f"w{i} ask" for i in range(num)], "documents": documents},
        [grades[i % 3 :] for i in range(num)],
        "query-documents",
        {},
    )


def scored(num: int = 60) -> Rows:
    """Pairs with scores that go with the share of words in common."""
    scores = [(i % 6) / 5 for i in range(num)]
    positives = [f"w{i} text" if s > 0.5 else f"v{i} text" for i, s in enumerate(scores)]
    return Rows({"anchor": [f"w{i} ask" for i in range(num)], "positive": positives}, scores, "pair-score", {})


def classed(num: int = 60) -> Rows:
    """Pairs with class 1 where the texts are near, some of them wrong."""
    labels = [int(i % 3 == 0) for i in range(num)]
    near = [bool(label) != (i % 10 == 0) for i, label in enumerate(labels)]
    positives = [f"w{i} text" if n else f"v{i} text" for i, n in enumerate(near)]
    return Rows({"anchor": [f"w{i} ask" for i in range(num)], "positive": positives}, labels, "pair-class", {})


def classes_of_pairs(num: int = 60, classes: int = 3) -> Rows:
    """Pairs of 3 classes that a ToyScorer with 3 outputs mostly gets right; every seventh has the class of its neighbour."""
    labels = [(i + (i % 7 == 0)) % classes for i in range(num)]
    columns = {"anchor": [f"w{i} ask" for i in range(num)], "positive": [f"w{i} text" for i in range(num)]}
    return Rows(columns, labels, "pair-class", {})


def labelled(num: int = 40) -> Rows:
    """Queries with five documents each, one a row, the relevant ones first."""
    rows = [(f"w{i} ask", f"w{i if k < 2 else i + k} text {i} {k}", float(k < 2)) for i in range(num) for k in range(5)]
    queries, docs, labels = zip(*rows, strict=True)
    return Rows({"query": list(queries), "document": list(docs)}, list(labels), "query-document", {})
