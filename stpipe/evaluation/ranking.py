"""A test collection for retrieval, a ranking of its documents, and whatever can produce one.

Shape legend: Q queries, N documents, K ranks (or candidates) of each query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stpipe.search.top_k import NO_DOC as NO_DOC


@dataclass(frozen=True)
class Collection:
    """Queries, documents, and which document answers which query how well.

    query_ids, queries: length Q; doc_ids, docs: length N, sliceable (a file's texts are read when they are sliced);
    grades: for each query document number -> grade; query_prompt, doc_prompt: put before each text, None leaves the
    choice to the model. Equal scores are ranked by document number.
    """

    query_ids: Sequence[str]
    queries: Sequence[str]
    doc_ids: Sequence[str]
    docs: Sequence[str]
    grades: Sequence[Mapping[int, float]]
    query_prompt: str | None = None
    doc_prompt: str | None = None


@dataclass(frozen=True)
class Ranking:
    """Documents of each query, best first.

    docs (Q, K) int64 document numbers, NO_DOC after the last; scores (Q, K) float32, never rising along a row.
    """

    docs: NDArray[np.int64]
    scores: NDArray[np.float32]

    @staticmethod
    def pad(docs: Sequence[NDArray[np.int64]], scores: Sequence[NDArray[np.float32]]) -> Ranking:
        """Rows of different length as one ranking."""
        width = max(len(row) for row in docs)
        all_docs = np.full((len(docs), width), NO_DOC, dtype=np.int64)
        all_scores = np.full((len(docs), width), -np.inf, dtype=np.float32)
        for i, (row_docs, row_scores) in enumerate(zip(docs, scores, strict=True)):
            all_docs[i, : len(row_docs)] = row_docs
            all_scores[i, : len(row_scores)] = row_scores
        return Ranking(all_docs, all_scores)


class Ranker(Protocol):
    """Anything that can order documents for queries."""

    def search(self, collection: Collection, *, depth: int) -> Ranking:
        """The best `depth` documents of the whole collection for each query."""

    def rerank(self, collection: Collection, candidates: Sequence[NDArray[np.int64]]) -> Ranking:
        """All candidates (document numbers) of each query in order of relevance."""


def rank_row(docs: NDArray[np.int64], scores: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """One query's documents by falling score, equal scores by document number."""
    order = np.lexsort((docs, -scores))
    return docs[order], scores[order]
