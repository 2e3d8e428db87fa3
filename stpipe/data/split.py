"""Held-out rows and row caps, by a seed of their own."""

from __future__ import annotations

import numpy as np

from stpipe.data.checks import text_hashes
from stpipe.data.draw import drawn
from stpipe.data.load import Loaded


def hold_out(loaded: Loaded, *, rows: int, seed: int) -> tuple[Loaded, Loaded]:
    """(training, held-out) rows. All rows with the same anchor or query go to one side, so that no held-out query is trained on.

    Args:
        loaded: all rows.
        rows: held-out rows at most; never more than half of the data.
        seed: of the choice; the same rows in another order give the same choice.
    """
    first = next(iter(loaded.texts.roles))
    groups, member, sizes = np.unique(text_hashes(loaded, first), return_inverse=True, return_counts=True)
    budget = min(rows, len(loaded) // 2)
    order = np.random.default_rng([seed, 1]).permutation(groups.size)
    order = order[sizes[order] <= max(1, budget // 4) if budget else np.zeros(order.size, bool)]
    chosen = order[np.cumsum(sizes[order]) <= budget]
    held = np.isin(member, chosen)
    return loaded.take(np.flatnonzero(~held)), loaded.take(np.flatnonzero(held))


def cap(loaded: Loaded, rows: int | None, *, seed: int) -> Loaded:
    """At most `rows` rows, drawn by the seed, in their original order."""
    return loaded if rows is None or rows >= len(loaded) else loaded.take(drawn(len(loaded), rows, seed=seed))
