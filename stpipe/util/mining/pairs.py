"""Which documents belong to which query, with every text once.

Shape legend: Q distinct queries, N distinct documents, P distinct (query, positive) pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stpipe.config.errors import DataError

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Distinct texts and who belongs together. Queries stand in the order of their first row.

    queries, corpus: texts; positives (P,): document numbers, those of one query together in the order of its rows;
    offsets (Q + 1,): query i has positives[offsets[i]:offsets[i + 1]]; rows: rows that they come from; most_rows: rows of
    the query that has most.
    """

    queries: Sequence[str]
    corpus: Sequence[str]
    positives: Ints
    offsets: Ints
    rows: int
    most_rows: int

    def __len__(self) -> int:
        return len(self.queries)

    @cached_property
    def counts(self) -> Ints:
        """(Q,) positives of each query."""
        counted: Ints = np.diff(self.offsets)
        return counted

    def of(self, queries: slice) -> tuple[Ints, Ints]:
        """(query (p,) counted from the first of the slice, document (p,)) of the pairs of some queries."""
        first, last = self.offsets[queries.start], self.offsets[queries.stop]
        counts = self.counts[queries]
        return np.repeat(np.arange(len(counts)), counts), self.positives[first:last]


def pair_up(anchors: Sequence[str], positives: Sequence[str], corpus: Iterable[str] = ()) -> Pairs:
    """The pairs of some rows.

    Args:
        anchors, positives: texts of the rows. Rows with the same anchor are one query with several positives.
        corpus: further documents; they are numbered before those of the rows.

    Raises:
        DataError: there are no rows, or one of them has no text.
    """
    if not len(anchors):
        raise DataError("there are no rows to mine negatives for; expected at least one pair")
    for what, texts in (("anchor", anchors), ("positive", positives)):
        missing = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
        if missing is not None:
            raise DataError(f"row {missing}: found {texts[missing]!r} as the {what}, expected text; remove the row")
    documents: dict[str, int] = {}
    for text in corpus:
        documents.setdefault(text, len(documents))
    mine: dict[str, list[int]] = {}
    for anchor, positive in zip(anchors, positives, strict=True):
        mine.setdefault(anchor, []).append(documents.setdefault(positive, len(documents)))
    distinct = [list(dict.fromkeys(numbers)) for numbers in mine.values()]
    offsets = np.concatenate([[0], np.cumsum([len(numbers) for numbers in distinct])]).astype(np.int64)
    flat = np.fromiter((number for numbers in distinct for number in numbers), np.int64, int(offsets[-1]))
    return Pairs(list(mine), list(documents), flat, offsets, len(anchors), max(map(len, mine.values())))
