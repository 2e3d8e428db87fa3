"""Exact nearest neighbours among dense embeddings, in memory that depends on chunk sizes only.

Products of tiles are taken in float32, which is fast but rounds: near documents may change places. So a few more than are
wanted are kept, scored again in float64, and put in order by that (equal scores by document number). A bound on the error
of float32 proves for each query that nothing left out belongs among them; a query for which it does not (many documents
that are all but equal) is searched again in float64.

Shape legend: Q queries, N documents, K ranks, D width; q and c queries and documents of one tile.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from stpipe.ops.convert import full_precision
from stpipe.ops.similarity import SIMILARITIES, normalize
from stpipe.search.nearest import (
    Neighbours,
    Vectors,
    chunks,
    known_similarity,
    longest,
    on_device,
    product_bound,
    rescored,
    rows_of,
    uncertain,
    unit_rows,
)
from stpipe.search.top_k import TopK, sort_keys

QUERY_CHUNK = 1024
CORPUS_CHUNK = 8192
SLOW_CELLS = 1_000_000  # pairs of one tile in float64, with their keys: about 70 MB
SMALL = 32_768  # documents among which a pass in float64 is cheaper than scoring again what a pass in float32 found
SPARE = 32  # documents kept beyond those asked for, so that the bound can prove the order
PRODUCTS = ("cosine", "dot")
CPU = torch.device("cpu")


class ExactSearch:
    """Search among a fixed corpus.

    Args:
        corpus: (N, D) embeddings, read a chunk at a time.
        similarity: cosine, dot, euclidean or manhattan; cosine does not ask for normalised rows.
        device: where tiles are multiplied; float64 is done on the CPU.
        query_chunk, corpus_chunk: size of a tile; small: a corpus up to this size is searched in float64 alone. None of them
            ever changes a result.
    """

    def __init__(
        self,
        corpus: Vectors,
        *,
        similarity: str = "cosine",
        device: str | torch.device = "cpu",
        query_chunk: int = QUERY_CHUNK,
        corpus_chunk: int = CORPUS_CHUNK,
        small: int = SMALL,
    ) -> None:
        self.corpus = corpus
        self.similarity = known_similarity(similarity, tuple(SIMILARITIES), "exact search")
        self.device = torch.device(device)
        self.query_chunk, self.corpus_chunk, self.small = query_chunk, corpus_chunk, small

    def search(self, queries: Vectors, depth: int) -> Neighbours:
        """The best `depth` documents of each query (all when the corpus has fewer).

        Raises:
            DataError: an embedding holds NaN or infinities.
        """
        depth = min(depth, len(self.corpus))
        found = [self._search(rows_of(queries, rows, "query"), depth) for rows in chunks(len(queries), self.query_chunk)]
        docs = np.concatenate([np.zeros((0, depth), np.int64), *(part.docs for part in found)])
        return Neighbours(docs, np.concatenate([np.zeros((0, depth), np.float32), *(part.scores for part in found)]))

    def _search(self, queries: NDArray[np.float32], depth: int) -> Neighbours:
        if self.similarity not in PRODUCTS or len(self.corpus) <= self.small:
            return self.scan(queries, depth)
        docs, outside, doc_length = self._coarse(queries, min(depth + SPARE, len(self.corpus)))
        bound = product_bound(queries.shape[1], self._length(queries), doc_length)
        return self.settled(queries, docs, outside, depth, bound=bound)

    def settled(
        self, queries: NDArray[np.float32], docs: NDArray[np.int64], outside: NDArray[np.float32], depth: int, *, bound: float
    ) -> Neighbours:
        """Exact order of what a float32 pass found, and a search in float64 where that pass may have missed something.

        Args:
            queries: (Q, D).
            docs: (Q, M) found by it, M > depth unless that is the whole corpus.
            outside: (Q,) its lowest score; -inf when it found the whole corpus.
            depth: documents to return.
            bound: on the error of its scores.
        """
        found = rescored(queries, self.corpus, docs, unit=self.similarity == "cosine", depth=depth)
        again = uncertain(found, outside, bound=bound)
        if again.size:
            better = self.scan(queries[again], depth)
            found.docs[again], found.scores[again] = better.docs, better.scores
        return found

    def scan(self, queries: NDArray[np.float32], depth: int) -> Neighbours:
        """The same by a pass over the whole corpus in float64."""
        best = TopK(len(queries), depth, CPU)
        unit = self.similarity == "cosine"
        score = SIMILARITIES["dot" if unit else self.similarity].matrix
        wide = normalize(torch.from_numpy(queries).double()) if unit else torch.from_numpy(queries).double()
        step = max(1, SLOW_CELLS // max(1, len(queries)))
        for part in chunks(len(self.corpus), step):
            docs = torch.from_numpy(rows_of(self.corpus, part, "document")).double()
            best.update(slice(None), sort_keys(score(wide, normalize(docs) if unit else docs), part.start))
        return Neighbours(*best.found())

    def _length(self, rows: NDArray[np.float32]) -> float:
        return 1.0 if self.similarity == "cosine" else longest(rows)

    def _fitted(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return unit_rows(rows) if self.similarity == "cosine" else rows

    def _coarse(self, queries: NDArray[np.float32], depth: int) -> tuple[NDArray[np.int64], NDArray[np.float32], float]:
        """(documents (q, depth), lowest score (q,), length of the longest document) by products in float32."""
        asked = on_device(self._fitted(queries), self.device)
        scores = torch.full((len(queries), depth), -torch.inf, device=self.device)
        docs = torch.zeros((len(queries), depth), dtype=torch.int64, device=self.device)
        length = 0.0
        for part in chunks(len(self.corpus), self.corpus_chunk):
            rows = rows_of(self.corpus, part, "document")
            length = max(length, self._length(rows))
            with full_precision(asked):
                tile = asked @ on_device(self._fitted(rows), self.device).T
            best = tile.topk(min(depth, tile.shape[1]), dim=1)
            scores, place = torch.cat([scores, best.values], dim=1).topk(depth, dim=1)
            docs = torch.cat([docs, best.indices + part.start], dim=1).gather(1, place)
        outside = scores[:, -1] if depth < len(self.corpus) else torch.full_like(scores[:, -1], -torch.inf)
        return docs.cpu().numpy(), outside.cpu().numpy(), length
