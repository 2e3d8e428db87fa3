"""Embeddings of the two sides of pairs, and their similarities under one or several functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stpipe.core.rows import Rows
from stpipe.evaluation.encoding import EmbeddingModel, embed, paired_similarity


@dataclass(frozen=True)
class Side:
    """One role's texts of the rows, and how they are encoded. encode: a method of the model."""

    rows: Rows
    role: str
    encode: Callable[..., Any]

    def embeddings(self, *, batch_size: int, truncate_dim: int | None) -> Tensor:
        """(N, D) float64, one a row."""
        texts: Sequence[str] = list(self.rows.columns[self.role])
        return embed(self.encode, texts, prompt=self.rows.prompts.get(self.role), batch_size=batch_size, truncate_dim=truncate_dim)


def both_sides(model: EmbeddingModel, rows: Rows) -> tuple[Side, Side]:
    """The texts of a pair, which play the same part (similarity has no direction) and so are encoded alike."""
    return Side(rows, "anchor", model.encode), Side(rows, "positive", model.encode)


def similarities_of(model: EmbeddingModel, functions: Sequence[str], a: Tensor, b: Tensor) -> dict[str, NDArray[np.float64]]:
    """Similarity function -> (N,) similarity of row i of a (N, D) and of b, higher = more alike."""
    return {name: paired_similarity(model, name)(a, b).cpu().numpy() for name in functions}
