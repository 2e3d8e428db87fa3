"""Mined blocks -> rows, in the output formats of the sentence-transformers documentation.

triplet: anchor, positive, negative; one row for each positive and negative.
n-tuple: anchor, positive, negative_1 ... negative_n; only where all n were found.
labeled-pair: anchor, document, label 1 or 0; each query's positives, then its negatives.
labeled-list: anchor, documents, labels; one row for each positive with the negatives behind it.
ranked-list (not in the documentation): anchor, documents, labels; each query once, documents in the order of the retriever.

With scores, `scores` (triplet, n-tuple: the positive's first) or `score` stands besides or in place of the labels.

Shape legend: q queries of a block, n negatives of each, p positives, r rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stpipe.search.top_k import NO_DOC
from stpipe.util.mining.mine import Block
from stpipe.util.mining.pairs import Pairs
from stpipe.util.mining.rules import is_positive

Ints = NDArray[np.int64]
#: Name of the lists that test rerankers.
RANKED = "ranked-list"


@dataclass(frozen=True)
class Names:
    """Column of the queries, and of the positives (in the labelled formats: of all documents)."""

    anchor: str = "anchor"
    positive: str = "positive"


class Texts:
    """Queries and documents as Arrow arrays, from which rows are taken without making Python strings."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    @cached_property
    def _queries(self) -> pa.Array:
        return pa.array(self.pairs.queries, pa.large_string())

    @cached_property
    def _corpus(self) -> pa.Array:
        return pa.array(self.pairs.corpus, pa.large_string())

    def queries(self, numbers: Ints) -> pa.Array:
        return self._queries.take(pa.array(numbers)).cast(pa.string())

    def docs(self, numbers: Ints) -> pa.Array:
        return self._corpus.take(pa.array(numbers)).cast(pa.string())


@dataclass(frozen=True)
class Pieces:
    """One block as what all formats are put together from.

    query (p,), positive (p,), positive_score (p,): its pairs; own (p,): place of a pair's query in the block.
    """

    block: Block
    query: Ints
    own: Ints
    positive: Ints
    positive_score: NDArray[np.float32]

    @staticmethod
    def of(block: Block, pairs: Pairs) -> Pieces:
        own, positive = pairs.of(block.queries)
        return Pieces(block, own + block.first, own, positive, block.positive_scores)

    @property
    def negatives(self) -> Ints:
        """(p, n) those of the pair's query."""
        return self.block.negatives[self.own]

    @property
    def negative_scores(self) -> NDArray[np.float32]:
        """(p, n)."""
        return self.block.negative_scores[self.own]


def lists(values: pa.Array, counts: Ints) -> pa.Array:
    """Consecutive values as lists of these lengths."""
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def score_lists(scores: NDArray[np.float32]) -> pa.Array:
    """(r, k) scores as lists of k."""
    flat = pa.array(scores.astype(np.float64).reshape(-1))
    return lists(flat, np.full(len(scores), scores.shape[1], np.int64))


def triplets(part: Pieces, texts: Texts, names: Names, scores: bool) -> dict[str, pa.Array]:
    row, column = np.nonzero(part.negatives != NO_DOC)
    found = {
        names.anchor: texts.queries(part.query[row]),
        names.positive: texts.docs(part.positive[row]),
        "negative": texts.docs(part.negatives[row, column]),
    }
    if scores:
        found["scores"] = score_lists(np.stack([part.positive_score[row], part.negative_scores[row, column]], axis=1))
    return found


def tuples(part: Pieces, texts: Texts, names: Names, scores: bool) -> dict[str, pa.Array]:
    rows = np.flatnonzero((part.negatives != NO_DOC).all(axis=1))
    found = {names.anchor: texts.queries(part.query[rows]), names.positive: texts.docs(part.positive[rows])}
    for number, column in enumerate(part.negatives[rows].T, start=1):
        found[f"negative_{number}"] = texts.docs(column)
    if scores:
        found["scores"] = score_lists(np.concatenate([part.positive_score[rows, None], part.negative_scores[rows]], axis=1))
    return found


def labeled_pairs(part: Pieces, texts: Texts, names: Names, scores: bool) -> dict[str, pa.Array]:
    row, column = np.nonzero(part.block.negatives != NO_DOC)
    owner = np.concatenate([part.own, row])
    docs = np.concatenate([part.positive, part.block.negatives[row, column]])
    values = np.concatenate([part.positive_score, part.block.negative_scores[row, column]])
    labels = np.repeat([1, 0], [len(part.own), len(row)])
    order = np.argsort(owner, kind="stable")
    label = {"score": pa.array(values[order].astype(np.float64))} if scores else {"label": pa.array(labels[order])}
    return {names.anchor: texts.queries(owner[order] + part.block.first), names.positive: texts.docs(docs[order]), **label}


def labeled_lists(part: Pieces, texts: Texts, names: Names, scores: bool) -> dict[str, pa.Array]:
    there = part.negatives != NO_DOC
    rows = np.flatnonzero(there.any(axis=1))
    docs = np.concatenate([part.positive[:, None], part.negatives], axis=1)[rows]
    values = np.concatenate([part.positive_score[:, None], part.negative_scores], axis=1)[rows]
    keep = docs != NO_DOC
    counts = keep.sum(axis=1)
    labels = np.broadcast_to(np.arange(docs.shape[1]) == 0, docs.shape).astype(np.int64)
    label = {"scores": pa.array(values[keep].astype(np.float64))} if scores else {"labels": pa.array(labels[keep])}
    return {
        names.anchor: texts.queries(part.query[rows]),
        names.positive: lists(texts.docs(docs[keep]), counts),
        **{name: lists(flat, counts) for name, flat in label.items()},
    }


def ranked_lists(part: Pieces, texts: Texts, names: Names, scores: bool) -> dict[str, pa.Array]:
    """What a reranker is to reorder: each query once with its documents as they were found, positives that were not found behind."""
    block = part.block
    own = is_positive(block.negatives, part.own, part.positive)
    missing = ~(block.negatives[part.own] == part.positive[:, None]).any(axis=1)
    row, column = np.nonzero(block.negatives != NO_DOC)
    owner = np.concatenate([row, part.own[missing]])
    docs = np.concatenate([block.negatives[row, column], part.positive[missing]])
    labels = np.concatenate([own[row, column].astype(np.int64), np.ones(int(missing.sum()), np.int64)])
    values = np.concatenate([block.negative_scores[row, column], part.positive_score[missing]])
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=len(block))
    label = {"scores": pa.array(values[order].astype(np.float64))} if scores else {"labels": pa.array(labels[order])}
    return {
        names.anchor: texts.queries(np.arange(len(block)) + block.first),
        names.positive: lists(texts.docs(docs[order]), counts),
        **{name: lists(flat, counts) for name, flat in label.items()},
    }


FORMATS: Mapping[str, Callable[[Pieces, Texts, Names, bool], dict[str, Any]]] = {
    "triplet": triplets,
    "n-tuple": tuples,
    "labeled-pair": labeled_pairs,
    "labeled-list": labeled_lists,
    RANKED: ranked_lists,
}


def tables(blocks: Iterator[Block], pairs: Pairs, *, output_format: str, scores: bool, names: Names) -> Iterator[pa.Table]:
    """One table for each block, in order; all have the same columns."""
    texts = Texts(pairs)
    for block in blocks:
        yield pa.table(FORMATS[output_format](Pieces.of(block, pairs), texts, names, scores))
