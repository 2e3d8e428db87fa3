"""Embeddings of the sides of rows, and their similarities under one or several functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.core.rows import Rows
from stpipe.evaluation.collection import text_id
from stpipe.evaluation.encoding import EmbeddingModel, EncodeOptions
from stpipe.evaluation.spaces import Space, space_of
from stpipe.search import Postings


def leading(functions: Sequence[str], main: str | None) -> tuple[str, tuple[str, ...]]:
    """(the similarity function whose values are shown, those that decide the primary metric: the main one, else the best of all)."""
    return (main, (main,)) if main is not None else (functions[0], tuple(functions))


def row_scores(metric: str, texts: Sequence[str], values: NDArray[Any]) -> list[dict[str, Any]]:
    """`per_query` of a metric that is a mean over rows: values (N,) of the rows with these first texts, which may occur several times."""
    return [
        {"query_id": f"{text_id('q', text)}-{i}", "query": text, metric: float(value)}
        for i, (text, value) in enumerate(zip(texts, values, strict=True))
    ]


@dataclass(frozen=True)
class Sides:
    """The embeddings of some roles of the rows. space: what they are compared in; values: role -> (N, D), one a row."""

    space: Space[Any]
    values: Mapping[str, Any]

    @staticmethod
    def encode(model: EmbeddingModel, rows: Rows, encoders: Mapping[str, Callable[..., Any]], options: EncodeOptions) -> Sides:
        """Embed each role by its method of the model, with the prompt of the data set."""
        space = space_of(model)
        return Sides(
            space,
            {
                role: space.embed(encode, list(rows.columns[role]), prompt=rows.prompts.get(role), options=options)
                for role, encode in encoders.items()
            },
        )

    @staticmethod
    def alike(model: EmbeddingModel, rows: Rows, options: EncodeOptions, roles: Sequence[str] = ("anchor", "positive")) -> Sides:
        """Roles that play the same part (similarity has no direction), so all go through `encode`."""
        return Sides.encode(model, rows, dict.fromkeys(roles, model.encode), options)

    def similarities(self, functions: Sequence[str], a: str, b: str) -> dict[str, NDArray[np.float64]]:
        """Similarity function -> (N,) similarity of the two roles in each row, higher = more alike."""
        return {name: self.space.paired(name, self.values[a], self.values[b]) for name in functions}

    def postings(self, *roles: str) -> Postings | None:
        """Use of dimensions by the texts of these roles (all when none is named); None for dense embeddings."""
        counted = [self.space.postings(self.values[role]) for role in roles or self.values]
        known = [postings for postings in counted if postings is not None]
        return Postings.total(known) if known else None
