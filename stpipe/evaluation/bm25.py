"""BM25 as a ranker: what word overlap alone finds, the line that an embedding model has to beat."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import bm25s
import numpy as np
import torch
from numpy.typing import NDArray

from stpipe.evaluation.ranking import Collection, Ranking, rank_row
from stpipe.search.top_k import EMPTY, TopK, sort_keys

Tokens = Literal["words", "identifiers"]

WORD = re.compile(r"\w+")
# Parts of an identifier: capitals that start no word, a word with or without its capital, a number.
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+")
TILE = 4_000_000


def words(text: str, *, tokens: Tokens) -> list[str]:
    """Lower-case runs of letters, digits and underscores, without stop words or stemming, so the same for every language.

    tokens "identifiers" adds the parts of snake_case and camelCase words after each whole word.
    """
    found = WORD.findall(text)
    if tokens == "words":
        return [word.lower() for word in found]
    return [token.lower() for word in found for token in (word, *identifier_parts(word))]


def identifier_parts(word: str) -> list[str]:
    """HTTPServer -> HTTP, Server; parse_v2 -> parse, v, 2. Nothing for a word that is not made of several."""
    parts = PART.findall(word)
    return parts if len(parts) > 1 else []


@dataclass(frozen=True)
class BM25:
    """Robertson's BM25 in the variant of Lucene (idf never negative), by the package bm25s.

    k1: how soon repeats of a word stop counting; b: how much long documents are held back. Defaults are those of bm25s.
    """

    tokens: Tokens = "identifiers"
    k1: float = 1.5
    b: float = 0.75

    def search(self, collection: Collection, *, depth: int) -> Ranking:
        """Documents that share a word with the query; others are not found."""
        index = Index(self, collection.docs)
        num_docs = len(collection.docs)
        top = TopK(len(collection.queries), min(depth, num_docs), torch.device("cpu"))
        step = max(1, TILE // num_docs)
        for start in range(0, len(collection.queries), step):
            scores = torch.from_numpy(np.stack([index.scores(query) for query in collection.queries[start : start + step]]))
            keys = sort_keys(scores, 0).masked_fill(scores <= 0, EMPTY)
            top.update(slice(start, start + step), keys)
        return Ranking(*top.found())

    def rerank(self, collection: Collection, candidates: Sequence[NDArray[np.int64]]) -> Ranking:
        """Candidates by score. Word frequencies are those of all documents of the collection."""
        index = Index(self, collection.docs)
        ranked = [rank_row(row, index.scores(query)[row]) for query, row in zip(collection.queries, candidates, strict=True)]
        return Ranking.pad([docs for docs, _ in ranked], [scores for _, scores in ranked])


class Index:
    """Word statistics of documents."""

    def __init__(self, settings: BM25, docs: Sequence[str]) -> None:
        self.settings = settings
        self.docs = docs

    @cached_property
    def _index(self) -> bm25s.BM25 | None:
        vocabulary: dict[str, int] = {}
        ids = [[vocabulary.setdefault(word, len(vocabulary)) for word in self._words(text)] for text in self._texts()]
        if not vocabulary:
            return None
        index = bm25s.BM25(method="lucene", k1=self.settings.k1, b=self.settings.b)
        index.index((ids, vocabulary), show_progress=False)
        return index

    def scores(self, query: str) -> NDArray[np.float32]:
        """(N,) score of every document, 0 when it shares no word with the query."""
        tokens = self._index.get_tokens_ids(self._words(query)) if self._index is not None else []
        if self._index is None or not tokens:
            return np.zeros(len(self.docs), dtype=np.float32)
        return self._index.get_scores_from_ids(tokens).astype(np.float32)

    def _texts(self) -> Iterator[str]:
        for start in range(0, len(self.docs), 10_000):
            yield from self.docs[start : start + 10_000]

    def _words(self, text: str) -> list[str]:
        return words(text, tokens=self.settings.tokens)
