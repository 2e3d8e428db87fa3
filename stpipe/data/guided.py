"""Batches with what a frozen model makes of their texts, for losses that ask a guide. The vectors are an argument: this layer knows no models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from stpipe.core.batch import Batch
from stpipe.data.prepared import PreparedSource
from stpipe.data.stream import Collator

VECTORS = "vectors.npy"


class TextVectors:
    """(M, D) float32: a vector for each distinct text of a role's store (PreparedSource.store), in its order, memory-mapped. It pickles as
    its path.

    Args:
        folder: holds VECTORS.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getstate__(self) -> dict[str, Path]:
        return {"folder": self.folder}

    @cached_property
    def _values(self) -> np.ndarray:
        found: np.ndarray = np.load(self.folder / VECTORS, mmap_mode="r")
        return found

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """(n, D) vectors of some texts, in memory."""
        return np.ascontiguousarray(self._values[places])


@dataclass(frozen=True)
class GuidedCollator:
    """Adds `Batch.teacher[name]` to the batches of another collator.

    inner: makes the batch; name: of the frozen model among the loss's teachers; vectors: role -> of its texts.
    """

    inner: Collator
    name: str
    vectors: Mapping[str, TextVectors]

    def __call__(self, source: PreparedSource, rows: np.ndarray, part: slice, seed: int) -> Batch:
        """The rows `part` of the global batch `rows`."""
        batch = self.inner(source, rows, part, seed)
        found = {role: torch.from_numpy(vectors[source.role(role).take(rows[part]).index]) for role, vectors in self.vectors.items()}
        return replace(batch, teacher={**batch.teacher, self.name: found})

    def row_tokens(self, source: PreparedSource) -> np.ndarray:
        """(rows,) int64 tokens of each row, at most."""
        return self.inner.row_tokens(source)
