"""What stands in a dry run for models that a real one asks about every text: shapes and formats are right, values are not.

A teacher or guide is loaded and asked about one text, so that one that cannot be used is refused, and its width is known. Negatives
are drawn instead of mined.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stpipe.pipeline.frozen import FrozenModel, Side
from stpipe.pipeline.mining import Miner, write_parquet
from stpipe.pipeline.teacher import PackagedTeacher
from stpipe.search.top_k import NO_DOC
from stpipe.util.mining.formats import tables
from stpipe.util.mining.mine import Block
from stpipe.util.mining.pairs import Pairs
from stpipe.util.mining.run import Output
from stpipe.util.mining.settings import Rules

#: Queries of a block, so that memory does not grow with the data.
BLOCK = 4096
#: Width of the embeddings that the packaged teacher makes.
WIDTH = 384


@dataclass(frozen=True)
class FrozenStandIn(FrozenModel):
    """Asks the model about the first text, and takes its answer for all."""

    def _encoded(self, texts: list[str], side: Side) -> Any:
        one = super()._encoded(texts[:1], side)
        if isinstance(one, torch.Tensor):
            return one.index_select(0, torch.zeros(len(texts), dtype=torch.int64))
        return np.repeat(one, len(texts), axis=0)

    def _scored(self, keys: list[str]) -> NDArray[np.float32]:
        return np.repeat(super()._scored(keys[:1]), len(keys), axis=0)


class PackagedStandIn(PackagedTeacher):
    """Draws embeddings whose similarities are between 0 and 1, as those of texts mostly are."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        drawn = np.abs(np.random.default_rng(0).standard_normal((len(texts), WIDTH))).astype(np.float32)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


class MinerStandIn(Miner):
    """Finds what was mined before; draws negatives where nothing was."""

    #: Splits for which negatives were drawn.
    drawn: list[str]

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.drawn = []

    def _write(self, into: Path, split: str, pairs: Pairs, rules: Rules, output: Output) -> None:
        self.drawn.append(split)
        resolved = rules.resolved(pairs.most_rows, rescored=False)
        blocks = drawn_blocks(pairs, resolved.num_negatives)
        rows = tables(blocks, pairs, output_format=output.output_format, scores=output.scores, names=output.names)
        write_parquet(into / f"{split}.parquet", rows)


def drawn_blocks(pairs: Pairs, negatives: int) -> Iterator[Block]:
    """Blocks as a mining would find them, with documents other than the query's first positive."""
    random = np.random.default_rng(0)
    count = len(pairs.corpus)
    width = min(negatives, count - 1)
    for first in range(0, len(pairs), BLOCK):
        queries = slice(first, min(first + BLOCK, len(pairs)))
        size = queries.stop - first
        own = pairs.positives[pairs.offsets[queries]][:, None]
        start = random.integers(1, max(count - width, 1) + 1, (size, 1)) if width else np.ones((size, 1), np.int64)
        docs = np.full((size, negatives), NO_DOC, np.int64)
        docs[:, :width] = (own + start + np.arange(width)) % count
        scores = np.broadcast_to(np.linspace(0.5, 0.4, negatives, dtype=np.float32), docs.shape)
        places = np.broadcast_to(np.arange(negatives), docs.shape)
        positive = np.full(len(pairs.of(queries)[1]), 0.9, np.float32)
        yield Block(first, docs, scores, np.zeros(docs.shape, np.int8), places, positive)
