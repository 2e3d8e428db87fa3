"""The work of mining, a block of queries at a time: search, score, judge, choose; each block is kept on disk when it is done.

Memory grows with the texts and with one block's candidates, never with queries x corpus. A run that is killed goes on at
the block it was in, and ends with the same blocks.

Shape legend: Q queries, N documents, q queries of a block, C candidates of each, n negatives of each, p positives of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from stpipe.core.digest import digest
from stpipe.search.embedding_cache import Progress, Stored, text_hashes
from stpipe.search.shards import Shards
from stpipe.search.top_k import NO_DOC
from stpipe.util.mining.choose import NONE, choose
from stpipe.util.mining.pairs import Pairs
from stpipe.util.mining.retriever import Retriever, Scorer, SearchOptions
from stpipe.util.mining.rules import Candidates, Floats, Ints, Verdicts, is_positive, judge, lowest_of, refuse_nan
from stpipe.util.mining.settings import Rules

BLOCK = 1024  # queries
BLOCK_RESCORED = 64  # queries, where a cross-encoder scores every candidate: its work is what must not be lost
VERSION = 1


@dataclass(frozen=True)
class Block:
    """What was found for the queries first .. first + q - 1.

    docs (q, C), scores (q, C), verdicts (q, C): candidates, best first; places (q, n): columns of the chosen ones, NONE behind
    the last; positive_scores (p,): of the pairs in the order of Pairs.
    """

    first: int
    docs: Ints
    scores: Floats
    verdicts: Verdicts
    places: Ints
    positive_scores: Floats

    def __len__(self) -> int:
        return len(self.docs)

    @property
    def queries(self) -> slice:
        """Their numbers."""
        return slice(self.first, self.first + len(self))

    @cached_property
    def negatives(self) -> Ints:
        """(q, n) documents that were chosen, NO_DOC where there are fewer."""
        picked = np.take_along_axis(self.docs, np.maximum(self.places, 0), axis=1)
        return np.where(self.places == NONE, NO_DOC, picked)

    @cached_property
    def negative_scores(self) -> Floats:
        """(q, n) their scores, -inf where there are fewer."""
        picked = np.take_along_axis(self.scores, np.maximum(self.places, 0), axis=1)
        return np.where(self.places == NONE, np.float32(-np.inf), picked)


@dataclass(frozen=True)
class Mining:
    """One mining: the texts, the models, the rules, and where finished blocks lie.

    rules: resolved; folder: below it each mining has a folder by the hash of all that decides its result.
    """

    pairs: Pairs
    retriever: Retriever
    rules: Rules
    folder: Path
    scorer: Scorer | None = None
    options: SearchOptions = field(default_factory=SearchOptions)
    progress: Progress | None = None

    @cached_property
    def identity(self) -> str:
        """Hash of all that decides the result."""
        texts = (text_hashes(part) for part in (self.pairs.queries, self.pairs.corpus))
        who = [xxhash.xxh3_128_hexdigest(values.tobytes()) for values in (*texts, self.pairs.positives, self.pairs.offsets)]
        search = [self.options.use_faiss, self.options.factory] if self.options.use_faiss else []
        prompts = [[p.text, p.name] for p in (self.retriever.query, self.retriever.document)]
        models = [self.retriever.identity, prompts, self.scorer.identity if self.scorer else None]
        return digest([VERSION, who, models, self.rules.as_dict(), search, self.block_size])

    @property
    def block_size(self) -> int:
        """Queries of a block."""
        return BLOCK if self.scorer is None else BLOCK_RESCORED

    @property
    def depth(self) -> int:
        """Candidates searched for: range_max, and room for a query's own documents."""
        return self.rules.pool + self.pairs.most_rows

    def blocks(self) -> Iterator[Block]:
        """All blocks in order; those that are not on disk yet are mined now."""
        shards = Shards(self.folder / self.identity)
        firsts = range(0, len(self.pairs), self.block_size)
        with shards.lock():
            missing = set(range(len(firsts))) - set(shards.numbers())
            if missing:
                self._mine(shards, sorted(missing), firsts)
        for number, first in enumerate(firsts):
            yield Block(first, **{name: np.asarray(values) for name, values in shards.read(number).items()})

    def _mine(self, shards: Shards, missing: list[int], firsts: range) -> None:
        corpus = self.retriever.embed(self.pairs.corpus, "document")
        queries = self.retriever.embed(self.pairs.queries, "query")
        search = self.retriever.search(corpus, self.options)
        for number in missing:
            asked = slice(firsts[number], min(firsts[number] + self.block_size, len(self.pairs)))
            found = search.search(queries[asked], self.depth)
            shards.write(number, self._block(asked, found.docs, found.scores, queries, corpus))
            if self.progress is not None:
                self.progress("mine", asked.stop, len(self.pairs))

    def _block(self, asked: slice, docs: Ints, scores: Floats, queries: Stored[Any], corpus: Stored[Any]) -> dict[str, NDArray[Any]]:
        of_query, positives = self.pairs.of(asked)
        positive = is_positive(docs, of_query, positives)
        if self.scorer is None:
            positive_scores = self.retriever.scores(queries[of_query + asked.start], corpus[positives])
        else:
            scores, positive_scores = self._rescored(asked, docs, of_query, positives)
            refuse_nan(positive_scores, "cross-encoder")
        refuse_nan(scores, "retriever" if self.scorer is None else "cross-encoder")
        found = Candidates(docs, scores, positive, lowest_of(positive_scores, of_query, len(docs)))
        found = found if self.scorer is None else found.sorted()
        places, verdicts = choose(judge(found, self.rules), self.rules, first_query=asked.start)
        return {"docs": found.docs, "scores": found.scores, "verdicts": verdicts, "places": places, "positive_scores": positive_scores}

    def _rescored(self, asked: slice, docs: Ints, of_query: Ints, positives: Ints) -> tuple[Floats, Floats]:
        """(candidates' scores (q, C), positives' scores (p,)) by the cross-encoder; a pair that is both is scored once."""
        assert self.scorer is not None
        row, column = np.nonzero(docs != NO_DOC)
        wanted = np.concatenate([np.stack([row, docs[row, column]], axis=1), np.stack([of_query, positives], axis=1)])
        once, place = np.unique(wanted, axis=0, return_inverse=True)
        texts = [(self.pairs.queries[asked.start + q], self.pairs.corpus[doc]) for q, doc in once.tolist()]
        values = self.scorer.scores(texts)[place.reshape(-1)]
        scores = np.full(docs.shape, -np.inf, np.float32)
        scores[row, column] = values[: len(row)]
        return scores, values[len(row) :]
