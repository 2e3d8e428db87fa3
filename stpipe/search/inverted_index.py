"""Exact search over sparse embeddings by posting lists.

The product of a sparse query matrix with the transposed sparse documents, both in CSR, is the walk that a search engine
does: for each dimension of the query, its posting list, weights multiplied and added up by document. scipy does it in
compiled code and in float64. Only documents that share a dimension with a query are touched, and only they are found.

Shape legend: Q queries, N documents, D dimensions, K ranks; q and n queries and documents of one tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from stpipe.config.errors import ConfigError, DataError
from stpipe.ops.sparse import Csr, Floats, to_csr
from stpipe.search.postings import Postings
from stpipe.search.top_k import EMPTY, LOW, NO_DOC, keys_of

SEGMENT = 100_000
TILE = 16_000_000  # products (query, document) that may be non-zero in one tile: 192 MB


@dataclass(frozen=True)
class Hits:
    """Documents found for each query, best first.

    docs (Q, K) int64 document numbers, -1 behind the last; scores (Q, K) float64 dot products, -inf there.
    """

    docs: NDArray[np.int64]
    scores: Floats

    def as_lists(self) -> list[list[dict[str, Any]]]:
        """For each query [{"corpus_id": int, "score": float}, ...], the form that `semantic_search` functions return."""
        return [
            [{"corpus_id": int(doc), "score": float(score)} for doc, score in zip(docs, scores, strict=True) if doc != NO_DOC]
            for docs, scores in zip(self.docs, self.scores, strict=True)
        ]


class InvertedIndex:
    """Posting lists of documents that are added in chunks; numbers follow the order of adding.

    Args:
        segment_size: documents whose posting lists are kept together. A search walks over the segments one by one, so
            this and the tile bound its memory; fewer, larger segments are faster.

    Weights are kept in float32 when they come so, which loses nothing; scores are float64. Equal scores (rounded to
    float32, as everywhere in evaluation) are ranked by document number. For cosine similarity add and ask with unit rows.
    """

    def __init__(self, *, segment_size: int = SEGMENT) -> None:
        if segment_size < 1:
            raise ConfigError(f"InvertedIndex: segment_size is {segment_size}; expected at least 1 document")
        self.segment_size = segment_size
        self._segments: list[Csr] = []
        self._waiting: list[Csr] = []
        self._postings: Postings | None = None

    def __len__(self) -> int:
        return self._postings.num_texts if self._postings is not None else 0

    def add(self, documents: Any) -> None:
        """Add documents (n, D): a torch tensor (COO, CSR or dense), a numpy array or a scipy matrix."""
        rows = self._rows(documents, "add")
        if not rows.shape[0]:
            return
        counted = Postings.of(rows)
        self._postings = counted if self._postings is None else Postings.total([self._postings, counted])
        exact = rows.data.astype(np.float32)
        data = exact if np.array_equal(exact, rows.data) else rows.data
        self._waiting.append(sparse.csr_array((data, rows.indices, rows.indptr), shape=rows.shape))
        while sum(part.shape[0] for part in self._waiting) >= self.segment_size:
            self._seal()

    def search(self, queries: Any, top_k: int = 10, *, query_chunk: int | None = None) -> Hits:
        """The `top_k` documents with the greatest dot product for each query; all that share a dimension when fewer do.

        Args:
            queries: (Q, D), or (D,) for one, in any form that `add` takes.
            top_k: documents a query.
            query_chunk: queries scored at a time; None takes as many as fit a tile. Never changes a result.
        """
        if top_k < 1:
            raise ConfigError(f"InvertedIndex.search: top_k is {top_k}; expected at least 1")
        if self._postings is None:
            raise DataError("InvertedIndex.search: the index is empty; add documents first")
        asked = self._rows(queries, "search")
        while self._waiting:
            self._seal()
        depth = min(top_k, len(self))
        keys = np.full((asked.shape[0], depth), EMPTY)
        scores = np.full((asked.shape[0], depth), -np.inf)
        first = 0
        for segment in self._segments:
            lists = segment.astype(np.float64)  # one segment at a time, not once for each tile of queries
            step = query_chunk or max(1, TILE // segment.shape[1])
            numbers = np.arange(first, first + segment.shape[1])
            for start in range(0, asked.shape[0], step):
                rows = slice(start, start + step)
                found = best_of_product(asked[rows] @ lists, numbers, depth)
                keys[rows], scores[rows] = merged((keys[rows], scores[rows]), found)
            first += segment.shape[1]
        absent = keys == EMPTY
        return Hits(np.where(absent, NO_DOC, LOW - (keys & LOW)), scores)

    def postings(self) -> Postings:
        """Lengths of the posting lists."""
        if self._postings is None:
            raise DataError("InvertedIndex.postings: the index is empty; add documents first")
        return self._postings

    def _rows(self, given: Any, method: str) -> Csr:
        rows = to_csr(given)
        width = len(self._postings.lengths) if self._postings is not None else rows.shape[1]
        if rows.shape[1] != width:
            raise DataError(
                f"InvertedIndex.{method}: vectors have {rows.shape[1]} dimensions, those in the index have {width}; use one model"
            )
        if not np.isfinite(rows.data).all():
            raise DataError(f"InvertedIndex.{method}: vectors hold NaN or infinite values; the model has diverged")
        return rows

    def _seal(self) -> None:
        """Turn up to segment_size of the documents that wait into posting lists (D, n)."""
        rows = sparse.vstack(self._waiting, format="csr")
        self._segments.append(sparse.csr_array(rows[: self.segment_size].T))
        self._waiting = [rows[self.segment_size :]] if rows.shape[0] > self.segment_size else []


def best_of_product(products: Csr, numbers: NDArray[np.int64], depth: int) -> tuple[NDArray[np.int64], Floats]:
    """(keys, scores), each (q, depth) in no order, of the best documents of each row of a sparse tile (q, n).

    numbers (n,): of the documents. EMPTY keys and -inf where a query has no further document.
    """
    docs = torch.from_numpy(numbers[products.indices])
    keys = np.append(keys_of(torch.from_numpy(products.data), docs).numpy(), EMPTY)
    places = np.full((products.shape[0], depth), -1)  # -1 is the EMPTY key at the end
    for row, (start, end) in enumerate(pairwise(products.indptr)):
        if end - start > depth:
            places[row] = start + np.argpartition(keys[start:end], end - start - depth)[-depth:]
        else:
            places[row, : end - start] = np.arange(start, end)
    return keys[places], np.append(products.data, -np.inf)[places]


def merged(*parts: tuple[NDArray[np.int64], Floats]) -> tuple[NDArray[np.int64], Floats]:
    """The best documents of several (keys, scores), as many as the first part has, best first."""
    keys, scores = (np.concatenate([part[i] for part in parts], axis=1) for i in range(2))
    order = np.argsort(keys, axis=1)[:, ::-1][:, : parts[0][0].shape[1]]
    return np.take_along_axis(keys, order, axis=1), np.take_along_axis(scores, order, axis=1)
