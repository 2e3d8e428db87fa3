"""A pass over all documents of a collection that keeps the best of them for each query, in one process or divided among several.

Every process encodes and scores documents of its own, and the best that each has found are merged at the end. What is best does
not depend on who scored it: a document's embedding comes from a micro-batch that is planned without regard to processes, and
equal scores are ordered by document number.

Shape legend: Q queries, K ranks, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stpipe.core.exchange import Exchange, Message
from stpipe.evaluation.encoding import EmbeddingModel, EncodeOptions
from stpipe.evaluation.ranking import Ranking
from stpipe.evaluation.spaces import Space, space_of
from stpipe.models.inference import Share
from stpipe.models.team import Team, team_of
from stpipe.search import Postings
from stpipe.search.top_k import TopK

#: What other processes are asked to do: begin a scan, take in documents, say what they found.
SCAN, DOCS, FOUND = "scan", "docs", "found"


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


@dataclass(frozen=True)
class ScanSettings:
    """What is searched for, and how.

    similarities: functions to rank by; depth: documents kept of each query; options: how documents are encoded; prompt: put before
    each document, None leaves the choice to the model; corpus_chunk: documents encoded and held at a time; query_chunk: queries
    scored at a time; curve: also search with so many dimensions of each vector (sparse).
    """

    similarities: tuple[str, ...]
    depth: int
    options: EncodeOptions
    prompt: str | None = None
    corpus_chunk: int = 10_000
    query_chunk: int = 256
    curve: tuple[int, ...] = ()

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> ScanSettings:
        """From what `dataclasses.asdict` gave, sent as JSON."""
        lists = {name: tuple(values[name]) for name in ("similarities", "curve")}
        return ScanSettings(**{**values, **lists, "options": EncodeOptions(**values["options"])})


class Sweep:
    """The pass under several similarity functions; `dims`: entries kept of each vector, None all."""

    def __init__(self, space: Space[Any], queries: Any, similarities: Sequence[str], depth: int, *, dims: int | None = None) -> None:
        self.space, self.dims = space, dims
        self.queries = self._cut(queries)
        self.best = {name: TopK(queries.shape[0], depth, space.device(queries)) for name in similarities}
        self.docs: Postings | None = None

    def take_in(self, docs: Any, numbers: Any, query_chunk: int) -> None:
        """Score documents with these numbers, `query_chunk` queries at a time."""
        docs = self._cut(docs)
        self._count(self.space.postings(docs))
        for name, top in self.best.items():
            rank = self.space.ranker(name, docs, numbers)
            for start in range(0, self.queries.shape[0], query_chunk):
                rows = slice(start, start + query_chunk)
                top.update(rows, rank(self.space.take(self.queries, rows), top.keys.shape[1]))

    def found(self) -> Found:
        """Rankings over all documents seen."""
        rankings = {name: Ranking(*top.found()) for name, top in self.best.items()}
        return Found(rankings, self.space.postings(self.queries), self.docs)

    def as_tensors(self) -> dict[str, Tensor]:
        """What was found, to be merged by another process."""
        counts = {} if self.docs is None else {"lengths": torch.from_numpy(self.docs.lengths), "texts": torch.tensor(self.docs.num_texts)}
        return {**{f"keys/{name}": top.keys for name, top in self.best.items()}, **counts}

    def merge(self, tensors: Mapping[str, Tensor]) -> None:
        """Take in what another process found among other documents."""
        for name, top in self.best.items():
            top.update(slice(None), tensors[f"keys/{name}"].to(top.keys.device))
        if "lengths" in tensors:
            self._count(Postings(tensors["lengths"].numpy(), int(tensors["texts"])))

    def _count(self, used: Postings | None) -> None:
        if used is not None:
            self.docs = used if self.docs is None else Postings.total([self.docs, used])

    def _cut(self, values: Any) -> Any:
        return values if self.dims is None else self.space.prune(values, self.dims)


class Scan:
    """The part of one process in a pass over the documents.

    Args:
        model: encodes documents.
        settings: of the pass.
        queries: embeddings (Q, D) in the space of the model.
    """

    def __init__(self, model: EmbeddingModel, settings: ScanSettings, queries: Any) -> None:
        self.model, self.settings, self.queries = model, settings, queries
        self.space = space_of(model)
        self.sweeps = {
            dims: Sweep(self.space, queries, settings.similarities, settings.depth, dims=dims) for dims in (None, *settings.curve)
        }

    def over(self, docs: Sequence[str]) -> Found:
        """The best of all documents. Holds one chunk of embeddings (chunk, D) and the scores of one tile at a time."""
        team = team_of(self.model)
        if team is None:
            for first in self._chunks(docs):
                self.take_in(self._texts(docs, first), first)
        else:
            self._together(docs, team)
        whole = self.sweeps[None].found()
        pruned = {dims: sweep.found() for dims, sweep in self.sweeps.items() if dims is not None}
        return Found(whole.rankings, whole.queries, whole.docs, pruned)

    def take_in(self, texts: Sequence[str], first: int, share: Share | None = None) -> None:
        """Encode documents, numbered from `first`, once for all, and score them; share: only these micro-batches of them, None all."""
        encode, prompt, options = self.model.encode_document, self.settings.prompt, self.settings.options
        if share is None:
            docs, numbers = self.space.embed(encode, texts, prompt=prompt, options=options), np.arange(len(texts))
        else:
            docs, numbers = self.space.embed_share(encode, texts, prompt=prompt, options=options, share=share)
        if len(numbers):
            for sweep in self.sweeps.values():
                sweep.take_in(docs, numbers + first, self.settings.query_chunk)

    def _together(self, docs: Sequence[str], team: Team) -> None:
        """The same with other processes. A process gets whole chunks while there is one for each, and its share of those that are left."""
        exchange, size = team.exchange, team.size
        exchange.tell({"do": SCAN, "settings": asdict(self.settings)}, self.space.as_tensors(self.queries))
        chunks = list(self._chunks(docs))
        whole = len(chunks) - len(chunks) % size
        for start in range(0, whole, size):
            own, *others = chunks[start : start + size]
            for rank, first in enumerate(others, 1):
                exchange.tell({"do": DOCS, "texts": list(self._texts(docs, first)), "first": first, "shared": False}, to=(rank,))
            self.take_in(self._texts(docs, own), own, Share())
        for first in chunks[whole:]:
            texts = list(self._texts(docs, first))
            exchange.tell({"do": DOCS, "texts": texts, "first": first, "shared": True})
            self.take_in(texts, first, Share(0, size))
        for answer in exchange.answers(exchange.tell({"do": FOUND})):
            for dims, sweep in self.sweeps.items():
                prefix = f"{dims}/"
                sweep.merge({name.removeprefix(prefix): t for name, t in answer.tensors.items() if name.startswith(prefix)})

    def _chunks(self, docs: Sequence[str]) -> range:
        return range(0, len(docs), self.settings.corpus_chunk)

    def _texts(self, docs: Sequence[str], first: int) -> Sequence[str]:
        return docs[first : first + self.settings.corpus_chunk]


class ScanHelp:
    """The part of a process in the scans of rank 0.

    Args:
        model: that of rank 0.
        exchange: with rank 0.
    """

    def __init__(self, model: EmbeddingModel, exchange: Exchange) -> None:
        self.model, self.exchange = model, exchange
        self.scan: Scan

    def begin(self, message: Message) -> None:
        """SCAN."""
        queries = space_of(self.model).from_tensors(message.tensors)
        self.scan = Scan(self.model, ScanSettings.from_json(message.value["settings"]), queries)

    def take_in(self, message: Message) -> None:
        """DOCS."""
        shared = Share(self.exchange.rank, self.exchange.size) if message.value["shared"] else Share()
        self.scan.take_in(message.value["texts"], message.value["first"], shared)

    def found(self, message: Message) -> None:
        """FOUND."""
        tensors = {f"{dims}/{name}": t for dims, sweep in self.scan.sweeps.items() for name, t in sweep.as_tensors().items()}
        self.exchange.answer(message, tensors=tensors)
        del self.scan
