"""Nearest neighbours by FAISS (extra `faiss`): the flat index, which is exact, or an approximate one by its factory string.

FAISS holds a copy of all vectors in memory and is faster than tiles of products there. Its scores are float32; what it finds
is scored again as `exact.py` does, so that the flat index gives the very same documents and scores.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.config.errors import ConfigError, MissingExtraError
from stpipe.search.exact import CORPUS_CHUNK, PRODUCTS, SPARE, ExactSearch
from stpipe.search.nearest import Neighbours, Vectors, chunks, known_similarity, longest, product_bound, rescored, rows_of, unit_rows

FLAT = "Flat"
QUERY_CHUNK = 16_384
TRAINING_ROWS = 262_144


def faiss_module() -> Any:
    """The module; without it an error names the extra."""
    try:
        return importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        raise MissingExtraError("faiss-cpu", "faiss", "search with use_faiss=True") from error


class FaissSearch:
    """Search among a fixed corpus.

    Args:
        corpus: (N, D) embeddings, copied into the index a chunk at a time.
        similarity: cosine (rows are normalised on their way in) or dot.
        factory: FAISS's description of the index, such as `IVF1024,Flat` or `HNSW32`. Flat is exact; every other one may miss
            documents, but the scores of those that it finds are exact.
        query_chunk: queries a call.
        nprobe: cells of an IVF index that are visited for a query.

    Raises:
        MissingExtraError: FAISS is not installed. ConfigError: a similarity or a factory string that FAISS cannot serve.
    """

    def __init__(
        self,
        corpus: Vectors,
        *,
        similarity: str = "cosine",
        factory: str = FLAT,
        query_chunk: int = QUERY_CHUNK,
        nprobe: int = 32,
    ) -> None:
        self.faiss = faiss_module()
        self.corpus = corpus
        self.similarity = known_similarity(similarity, PRODUCTS, "FAISS")
        self.exact = factory == FLAT
        self.query_chunk = query_chunk
        self.doc_length = 0.0
        self.index = self._made(factory)
        if hasattr(self.index, "nprobe"):
            self.index.nprobe = nprobe
        for part in chunks(len(corpus), CORPUS_CHUNK):
            rows = self._fitted(rows_of(corpus, part, "document"))
            self.doc_length = max(self.doc_length, longest(rows))
            self.index.add(rows)

    def search(self, queries: Vectors, depth: int) -> Neighbours:
        """The best `depth` documents of each query (all when the corpus has fewer); NO_DOC where an approximate index found no more."""
        depth = min(depth, len(self.corpus))
        found = [self._search(rows_of(queries, rows, "query"), depth) for rows in chunks(len(queries), self.query_chunk)]
        docs = np.concatenate([np.zeros((0, depth), np.int64), *(part.docs for part in found)])
        return Neighbours(docs, np.concatenate([np.zeros((0, depth), np.float32), *(part.scores for part in found)]))

    def _search(self, queries: NDArray[np.float32], depth: int) -> Neighbours:
        kept = min(depth + SPARE, len(self.corpus))
        asked = self._fitted(queries)
        scores, docs = self.index.search(asked, kept)
        if not self.exact:
            return rescored(queries, self.corpus, docs, unit=self.similarity == "cosine", depth=depth)
        outside = scores[:, -1] if kept < len(self.corpus) else np.full(len(queries), -np.inf, np.float32)
        bound = product_bound(queries.shape[1], longest(asked), self.doc_length)
        return ExactSearch(self.corpus, similarity=self.similarity).settled(queries, docs, outside, depth, bound=bound)

    def _made(self, factory: str) -> Any:
        width = rows_of(self.corpus, slice(0, 1), "document").shape[1]
        try:
            index = self.faiss.index_factory(width, factory, self.faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            message = f"FAISS cannot make an index '{factory}' over {width} dimensions. Examples: Flat, IVF1024,Flat, HNSW32"
            raise ConfigError(f"{message} ({str(error).strip().splitlines()[-1]})") from error
        if not index.is_trained:
            numbers = np.unique(np.linspace(0, len(self.corpus) - 1, min(len(self.corpus), TRAINING_ROWS)).astype(np.int64))
            index.train(self._fitted(rows_of(self.corpus, numbers, "document")))
        return index

    def _fitted(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return unit_rows(rows) if self.similarity == "cosine" else rows
