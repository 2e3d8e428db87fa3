"""The tokens of a run's training data, for what a model sets from them before training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from stpipe.config.formats import side_of
from stpipe.core.tokens import Tokens
from stpipe.data.prepared import PreparedSource

PAIRED = ("anchor", "positive", "query", "document")
"""Roles with one text a row that belongs to the others of these in its row."""


@dataclass(frozen=True)
class PreparedTexts:
    """See models/component.py: TrainingTexts. Rows are taken at even distances, so the same data give the same texts.

    Args:
        sources: data set name -> its rows.
        routes: data set name -> role -> route of its own.
        route_of: the route of a role, given those of its data set's own; None when the model has no Router. Encoder.route_of.
    """

    sources: Mapping[str, PreparedSource]
    routes: Mapping[str, Mapping[str, str]]
    route_of: Callable[[str, Mapping[str, str] | None], str | None]

    def sides(self) -> tuple[str, ...]:
        """The sides that any of the texts are on, sorted."""
        return tuple(sorted({side for name in self.sources for side in self._sides(name).values()}))

    def tokens(self, side: str, limit: int, per_part: int = 32) -> list[Tokens]:
        """At most `limit` texts of one side, `per_part` at a time, all data sets that have such texts taking part alike."""
        wanted = {name: [role for role, its in self._sides(name).items() if its == side] for name in self.sources}
        wanted = {name: roles for name, roles in wanted.items() if roles}
        share = max(1, limit // max(len(wanted), 1))
        return [part for name, roles in wanted.items() for part in self._parts(self.sources[name], roles, share, per_part)]

    def pairs(self, limit: int) -> tuple[Tokens, Tokens] | None:
        """Texts of the side `query` and of the side `document`, from the first data set whose rows are such pairs."""
        for name, source in self.sources.items():
            paired = {role: side for role, side in self._sides(name).items() if role in PAIRED}
            query, document = (next((r for r, its in paired.items() if its == side), None) for side in ("query", "document"))
            matching = source.format.label is None or source.format.negatives  # else the label says whether they match
            if query is not None and document is not None and matching:
                columns = source.batch(spaced(len(source), limit)).columns
                return columns[query].tokens, columns[document].tokens
        return None

    def _sides(self, name: str) -> dict[str, str]:
        """Role -> side of its texts, in one data set: the route by which they enter the model, else what the role is in a search."""
        return {role: self.route_of(role, self.routes.get(name)) or side_of(role) for role in self.sources[name].roles}

    @staticmethod
    def _parts(source: PreparedSource, roles: list[str], limit: int, per_part: int) -> Iterator[Tokens]:
        rows = spaced(len(source), max(1, limit // len(roles)))
        for start in range(0, rows.size, per_part):
            columns = source.batch(rows[start : start + per_part]).columns
            for role in roles:
                yield columns[role].tokens


def spaced(count: int, limit: int) -> np.ndarray:
    """At most `limit` of the numbers 0 .. count - 1, at even distances."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).astype(np.int64))
