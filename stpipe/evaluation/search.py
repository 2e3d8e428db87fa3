"""Exact ranking by embeddings, dense or sparse, in memory that does not grow with queries x documents.

Shape legend: Q queries, N documents, K ranks, D width; q and c queries and documents of one chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.evaluation.encoding import EmbeddingModel, EncodeOptions
from stpipe.evaluation.ranking import Collection, Ranking, rank_row
from stpipe.evaluation.scan import Found as Found
from stpipe.evaluation.scan import Scan, ScanSettings
from stpipe.evaluation.spaces import Space, space_of
from stpipe.search import Postings


@dataclass(frozen=True)
class EmbeddingSearch:
    """An embedding model as a ranker, under one or several similarity functions of the same embeddings.

    similarities: their names; batch_size: texts a forward; truncate_dim (dense), max_active_dims (sparse): keep so many
    dimensions, None is the model's setting; corpus_chunk: documents encoded and held at a time; query_chunk: queries
    scored at a time; curve: also search with so many dimensions of each vector (sparse).
    """

    model: EmbeddingModel
    similarities: tuple[str, ...]
    batch_size: int
    truncate_dim: int | None = None
    max_active_dims: int | None = None
    corpus_chunk: int = 10_000
    query_chunk: int = 256
    curve: tuple[int, ...] = ()

    def search_all(self, collection: Collection, *, depth: int) -> Found:
        """The best `depth` documents of each query under each similarity function.

        Holds the queries' embeddings (Q, D), one chunk of documents' (c, D) and scores of one tile (q, c).
        """
        settings = ScanSettings(
            self.similarities,
            min(depth, len(collection.docs)),
            self._options,
            collection.doc_prompt,
            self.corpus_chunk,
            self.query_chunk,
            self.curve,
        )
        return Scan(self.model, settings, self._queries(collection)).over(collection.docs)

    def search(self, collection: Collection, *, depth: int) -> Ranking:
        return self.search_all(collection, depth=depth).rankings[self.similarities[0]]

    def rerank(self, collection: Collection, candidates: Sequence[NDArray[np.int64]]) -> Ranking:
        return self.rerank_all(collection, candidates).rankings[self.similarities[0]]

    def rerank_all(self, collection: Collection, candidates: Sequence[NDArray[np.int64]]) -> Found:
        """Each distinct candidate is encoded once, a chunk at a time; pairs are scored as their document comes by."""
        space, name = self._space, self.similarities[0]
        queries = self._queries(collection)
        pair_doc = np.concatenate(candidates)
        pair_query = np.repeat(np.arange(len(candidates)), [len(row) for row in candidates])
        found = np.empty(len(pair_doc), dtype=np.float32)
        order = np.argsort(pair_doc, kind="stable")
        used, starts = np.unique(pair_doc[order], return_index=True)
        ends = np.append(starts[1:], len(order))
        counted: list[Postings | None] = []
        for first in range(0, len(used), self.corpus_chunk):
            part = used[first : first + self.corpus_chunk]
            docs = self._docs(collection, [collection.docs[i] for i in part])
            counted.append(space.postings(docs))
            pairs = order[starts[first] : ends[first + len(part) - 1]]
            for block in np.array_split(pairs, -(-len(pairs) // self.corpus_chunk)):
                place = np.searchsorted(part, pair_doc[block])
                found[block] = space.paired(name, space.take(queries, pair_query[block]), space.take(docs, place))
        rows = np.split(found, np.cumsum([len(row) for row in candidates])[:-1])
        ranked = [rank_row(docs, scores) for docs, scores in zip(candidates, rows, strict=True)]
        ranking = Ranking.pad([docs for docs, _ in ranked], [scores for _, scores in ranked])
        docs_used = [postings for postings in counted if postings is not None]
        return Found({name: ranking}, space.postings(queries), Postings.total(docs_used) if docs_used else None)

    @cached_property
    def _space(self) -> Space[Any]:
        return space_of(self.model)

    @property
    def _options(self) -> EncodeOptions:
        return EncodeOptions(self.batch_size, self.truncate_dim, self.max_active_dims)

    def _queries(self, collection: Collection) -> Any:
        return self._space.embed(self.model.encode_query, collection.queries, prompt=collection.query_prompt, options=self._options)

    def _docs(self, collection: Collection, texts: Sequence[str]) -> Any:
        return self._space.embed(self.model.encode_document, texts, prompt=collection.doc_prompt, options=self._options)
