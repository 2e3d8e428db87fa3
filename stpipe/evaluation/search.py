"""Exact ranking by embeddings in memory that does not grow with queries x documents.

Shape legend: Q queries, N documents, K ranks, D width; q and c queries and documents of one chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpipe.evaluation.encoding import EmbeddingModel, embed, matrix_similarity, paired_similarity
from stpipe.evaluation.ranking import NO_DOC, Collection, Ranking, rank_row

EMPTY = torch.iinfo(torch.int64).min
LOW = (1 << 32) - 1


def sort_keys(scores: Tensor, first: int) -> Tensor:
    """(q, c) int64 keys of the scores (q, c) of documents first, first + 1, ...: larger = higher score, then lower number.

    No two documents of a query share a key, so the greatest K keys are the same set however the corpus was cut, which
    the greatest K scores are not. The upper half is the float32 score with its bits in order of value, the lower half
    counts document numbers down. Scores come in float64 and are rounded here: matrix products of different shape
    differ in the last bits of float64, which would break ties of equal texts by chance.
    """
    bits = (scores.float() + 0.0).contiguous().view(torch.int32).long()  # + 0.0 makes -0.0 and 0.0 equal
    ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
    number = torch.arange(first, first + scores.shape[1], device=scores.device)
    return (ordered << 32) | (LOW - number)


def decode_keys(keys: Tensor) -> Ranking:
    """The ranking behind keys (Q, K), on the CPU and in falling order; EMPTY keys become NO_DOC."""
    absent = keys == EMPTY
    ordered = keys >> 32
    bits = torch.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF).to(torch.int32)
    scores = bits.view(torch.float32).masked_fill(absent, -torch.inf)
    docs = (LOW - (keys & LOW)).masked_fill(absent, NO_DOC)
    return Ranking(docs.numpy(), scores.numpy())


class TopK:
    """The best K documents of each query among those seen so far. Memory: Q x K."""

    def __init__(self, num_queries: int, depth: int, device: torch.device) -> None:
        self.keys = torch.full((num_queries, depth), EMPTY, dtype=torch.int64, device=device)

    def update(self, rows: slice, keys: Tensor) -> None:
        """Take in the keys (q, c) of a chunk of documents for the queries `rows`."""
        depth = self.keys.shape[1]
        best = keys.topk(min(depth, keys.shape[1]), dim=1).values
        self.keys[rows] = torch.cat([self.keys[rows], best], dim=1).topk(depth, dim=1).values

    def ranking(self) -> Ranking:
        return decode_keys(self.keys.cpu())


@dataclass(frozen=True)
class EmbeddingSearch:
    """An embedding model as a ranker, under one or several similarity functions of the same embeddings.

    similarities: their names; batch_size: texts a forward; truncate_dim: keep so many dimensions, None all;
    corpus_chunk: documents encoded and held at a time; query_chunk: queries scored at a time.
    """

    model: EmbeddingModel
    similarities: tuple[str, ...]
    batch_size: int
    truncate_dim: int | None = None
    corpus_chunk: int = 10_000
    query_chunk: int = 256

    def search_all(self, collection: Collection, *, depth: int) -> dict[str, Ranking]:
        """Similarity function -> the best `depth` documents of each query.

        Holds the queries' embeddings (Q, D), one chunk of documents' (c, D) and scores of one tile (q, c).
        """
        queries = self._queries(collection)
        depth = min(depth, len(collection.docs))
        best = {name: TopK(len(queries), depth, queries.device) for name in self.similarities}
        for first in range(0, len(collection.docs), self.corpus_chunk):
            self._take_in(best, queries, collection, first)
        return {name: top.ranking() for name, top in best.items()}

    def _take_in(self, best: dict[str, TopK], queries: Tensor, collection: Collection, first: int) -> None:
        """Encode and score the chunk of documents that starts at number `first`."""
        docs = self._docs(collection, collection.docs[first : first + self.corpus_chunk])
        for name, top in best.items():
            score = matrix_similarity(self.model, name)
            for start in range(0, len(queries), self.query_chunk):
                rows = slice(start, start + self.query_chunk)
                top.update(rows, sort_keys(score(queries[rows], docs), first))

    def search(self, collection: Collection, *, depth: int) -> Ranking:
        return self.search_all(collection, depth=depth)[self.similarities[0]]

    def rerank(self, collection: Collection, candidates: Sequence[NDArray[np.int64]]) -> Ranking:
        """Each distinct candidate is encoded once, a chunk at a time; pairs are scored as their document comes by."""
        queries = self._queries(collection)
        score = paired_similarity(self.model, self.similarities[0])
        pair_doc = np.concatenate(candidates)
        pair_query = np.repeat(np.arange(len(candidates)), [len(row) for row in candidates])
        found = np.empty(len(pair_doc), dtype=np.float32)
        order = np.argsort(pair_doc, kind="stable")
        used, starts = np.unique(pair_doc[order], return_index=True)
        ends = np.append(starts[1:], len(order))
        for first in range(0, len(used), self.corpus_chunk):
            part = used[first : first + self.corpus_chunk]
            docs = self._docs(collection, [collection.docs[i] for i in part])
            pairs = order[starts[first] : ends[first + len(part) - 1]]
            for block in np.array_split(pairs, -(-len(pairs) // self.corpus_chunk)):
                place = torch.from_numpy(np.searchsorted(part, pair_doc[block])).to(docs.device)
                found[block] = score(queries[torch.from_numpy(pair_query[block]).to(docs.device)], docs[place]).float().cpu().numpy()
        rows = np.split(found, np.cumsum([len(row) for row in candidates])[:-1])
        ranked = [rank_row(docs, scores) for docs, scores in zip(candidates, rows, strict=True)]
        return Ranking.pad([docs for docs, _ in ranked], [scores for _, scores in ranked])

    def _queries(self, collection: Collection) -> Tensor:
        return embed(
            self.model.encode_query,
            collection.queries,
            prompt=collection.query_prompt,
            batch_size=self.batch_size,
            truncate_dim=self.truncate_dim,
        )

    def _docs(self, collection: Collection, texts: Sequence[str]) -> Tensor:
        return embed(
            self.model.encode_document, texts, prompt=collection.doc_prompt, batch_size=self.batch_size, truncate_dim=self.truncate_dim
        )
