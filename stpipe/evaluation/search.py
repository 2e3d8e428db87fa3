"""Exact ranking by embeddings, dense or sparse, in memory that does not grow with queries x documents.

Shape legend: Q queries, N documents, K ranks, D width; q and c queries and documents of one chunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.evaluation.encoding import EmbeddingModel, EncodeOptions
from stpipe.evaluation.ranking import Collection, Ranking, rank_row
from stpipe.evaluation.spaces import Space, space_of
from stpipe.search import Postings
from stpipe.search.top_k import TopK


@dataclass(frozen=True)
class Found:
    """Rankings of one search, and what the embeddings were like.

    rankings: similarity function -> the best documents of each query; queries, docs: use of dimensions, None for dense
    embeddings; pruned: number of dimensions kept -> the same search with shorter vectors.
    """

    rankings: Mapping[str, Ranking]
    queries: Postings | None = None
    docs: Postings | None = None
    pruned: Mapping[int, Found] = field(default_factory=dict)


class Sweep:
    """One pass over the documents in chunks, under several similarity functions; `dims`: entries kept of each vector, None all."""

    def __init__(self, space: Space[Any], queries: Any, similarities: Sequence[str], depth: int, *, dims: int | None = None) -> None:
        self.space, self.dims = space, dims
        self.queries = self._cut(queries)
        self.best = {name: TopK(queries.shape[0], depth, space.device(queries)) for name in similarities}
        self.docs: Postings | None = None

    def take_in(self, docs: Any, first: int, query_chunk: int) -> None:
        """Score a chunk of documents that starts at number `first`, `query_chunk` queries at a time."""
        docs = self._cut(docs)
        used = self.space.postings(docs)
        if used is not None:
            self.docs = used if self.docs is None else Postings.total([self.docs, used])
        for name, top in self.best.items():
            rank = self.space.ranker(name, docs, first)
            for start in range(0, self.queries.shape[0], query_chunk):
                rows = slice(start, start + query_chunk)
                top.update(rows, rank(self.space.take(self.queries, rows), top.keys.shape[1]))

    def found(self) -> Found:
        """Rankings over all documents seen."""
        rankings = {name: Ranking(*top.found()) for name, top in self.best.items()}
        return Found(rankings, self.space.postings(self.queries), self.docs)

    def _cut(self, values: Any) -> Any:
        return values if self.dims is None else self.space.prune(values, self.dims)


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
        queries = self._queries(collection)
        depth = min(depth, len(collection.docs))
        sweeps = {dims: Sweep(self._space, queries, self.similarities, depth, dims=dims) for dims in (None, *self.curve)}
        for first in range(0, len(collection.docs), self.corpus_chunk):
            self._take_in(list(sweeps.values()), collection, first)
        whole = sweeps[None].found()
        pruned = {dims: sweep.found() for dims, sweep in sweeps.items() if dims is not None}
        return Found(whole.rankings, whole.queries, whole.docs, pruned)

    def _take_in(self, sweeps: Sequence[Sweep], collection: Collection, first: int) -> None:
        """Encode the chunk of documents that starts at number `first`, once for all."""
        docs = self._docs(collection, collection.docs[first : first + self.corpus_chunk])
        for sweep in sweeps:
            sweep.take_in(docs, first, self.query_chunk)

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
