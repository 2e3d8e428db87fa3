"""Who scores the embedded data. The model is an argument: this layer knows no models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Teacher(Protocol):
    """Embeds texts; the score of two texts is the dot product of their embeddings, which is their cosine."""

    @property
    def identity(self) -> str:
        """Changes with whatever changes the embeddings; part of the key under which scores are kept."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32 of unit length."""
        ...
