"""Exact neighbours among sparse embeddings, in the form that the searches among dense ones return.

Shape legend: Q queries, N documents, K ranks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stpipe.ops import sparse
from stpipe.search.inverted_index import InvertedIndex
from stpipe.search.nearest import Neighbours, chunks, known_similarity
from stpipe.search.top_k import NO_DOC

CHUNK = 4096


class SparseSearch:
    """Search among a fixed corpus by posting lists; documents that share no dimension with a query are not found.

    Args:
        corpus: (N, D) CSR rows, read a chunk at a time; the lists hold all of them.
        similarity: dot or cosine.
    """

    def __init__(self, corpus: Any, *, similarity: str = "dot") -> None:
        self.similarity = known_similarity(similarity, ("dot", "cosine"), "the inverted index")
        self.size = len(corpus)
        self.index = InvertedIndex()
        for part in chunks(self.size, CHUNK):
            self.index.add(self._fitted(corpus[part]))

    def search(self, queries: Any, depth: int) -> Neighbours:
        """The best `depth` documents of each query; NO_DOC behind the last that shares a dimension with it."""
        hits = self.index.search(self._fitted(queries), min(depth, self.size))
        scores = np.where(hits.docs == NO_DOC, -np.inf, hits.scores)
        return Neighbours(hits.docs, scores.astype(np.float32))

    def _fitted(self, rows: Any) -> Any:
        return sparse.unit_rows(sparse.to_csr(rows)) if self.similarity == "cosine" else rows
