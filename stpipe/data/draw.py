"""Which rows a cap leaves: decided here for those who cap, and for sources whose rows are too costly to make in vain."""

from __future__ import annotations

import numpy as np


def drawn(total: int, rows: int | None, *, seed: int) -> np.ndarray:
    """Row numbers (int64, ascending) of at most `rows` of `total` rows, drawn by the seed; all of them when `rows` is None."""
    if rows is None or rows >= total:
        return np.arange(total, dtype=np.int64)
    return np.sort(np.random.default_rng([seed, 2]).permutation(total)[:rows])
