"""A data set that holds nothing but what samplers read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Ids:
    """columns: role -> text ids (lists of them for a ragged role)."""

    columns: dict[str, Sequence]
    classes: Sequence[int] | None = None
    name: str = "default"
    ragged: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else len(self.classes or ())

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.columns)

    def text_ids(self, role: str) -> np.ndarray:
        values = self.columns[role]
        return np.array([t for row in values for t in row] if role in self.ragged else values, np.int64)

    def counts(self, role: str) -> np.ndarray:
        values = self.columns[role]
        return np.array([len(row) for row in values] if role in self.ragged else [1] * len(values), np.int64)

    def labels(self) -> np.ndarray | None:
        return None if self.classes is None else np.array(self.classes, np.int64)
