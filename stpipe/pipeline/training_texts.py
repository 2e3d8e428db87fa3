"""The tokens of a run's training data, for what a model sets from them before training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stpipe.core.batch import Batch
from stpipe.core.tokens import Tokens
from stpipe.data.prepared import PreparedSource

QUERY_ROLES = ("anchor", "query")
FIRST_DOCUMENTS = ("positive", "document")


@dataclass(frozen=True)
class PreparedTexts:
    """See models/component.py: TrainingTexts. Rows are taken at even distances, so the same data give the same texts."""

    sources: Mapping[str, PreparedSource]

    def tokens(self, side: Literal["query", "document"], limit: int, per_part: int = 32) -> list[Tokens]:
        """At most `limit` texts of one side, `per_part` at a time, all data sets taking part alike."""
        share = max(1, limit // len(self.sources))
        parts = []
        for source in self.sources.values():
            wanted = [r for r in source.roles if (r in QUERY_ROLES) == (side == "query")] or list(source.roles)
            parts += list(self._parts(source, tuple(wanted), share, per_part))
        return parts

    def pairs(self, limit: int) -> tuple[Tokens, Tokens] | None:
        """Queries and the document of each, from the first data set whose rows are such pairs."""
        for source in self.sources.values():
            query = next((r for r in source.roles if r in QUERY_ROLES), None)
            document = next((r for r in FIRST_DOCUMENTS if r in source.roles), None)
            matching = source.format.label is None or source.format.negatives  # else the label says whether they match
            if query is not None and document is not None and matching:
                batch = source.batch(spaced(len(source), limit))
                return batch.columns[query].tokens, batch.columns[document].tokens
        return None

    @staticmethod
    def _parts(source: PreparedSource, roles: tuple[str, ...], limit: int, per_part: int) -> Iterator[Tokens]:
        rows = spaced(len(source), max(1, limit // len(roles)))
        for start in range(0, rows.size, per_part):
            batch: Batch = source.batch(rows[start : start + per_part])
            for role in roles:
                yield batch.columns[role].tokens


def spaced(count: int, limit: int) -> np.ndarray:
    """At most `limit` of the numbers 0 .. count - 1, at even distances."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).astype(np.int64))
