"""Which data set each batch of an epoch comes from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stpipe.core.context import derive_seed


def batches_of_epoch(mixing: str, sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """How many batches of each data set an epoch holds, the same in every epoch.

    Args:
        mixing: proportional: all of them; round_robin: of each as many as the smallest has; weighted: as many in all as proportional,
            shared by weight (largest remainders), so that the mixture is exact to one batch.
        sizes: batches that one pass over each data set makes.
        weights: share of each data set under `weighted`, in any unit.
    """
    if mixing == "proportional":
        return list(sizes)
    if mixing == "round_robin":
        return [min(sizes)] * len(sizes)
    exact = np.array(weights, np.float64) / sum(weights) * sum(sizes)
    counts = np.floor(exact).astype(np.int64)
    rest = sum(sizes) - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:rest]] += 1
    return counts.tolist()


def order_of_epoch(mixing: str, counts: Sequence[int], *, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """(data set, its how-manieth batch of this epoch) of each batch of an epoch; round_robin takes turns, the others are shuffled."""
    if mixing == "round_robin":
        return np.tile(np.arange(len(counts)), counts[0]), np.repeat(np.arange(counts[0]), len(counts))
    which = np.random.default_rng(derive_seed(seed, epoch, 0x317)).permutation(np.repeat(np.arange(len(counts)), counts))
    ordinal = np.empty(which.size, np.int64)
    for number, count in enumerate(counts):
        ordinal[which == number] = np.arange(count)
    return which, ordinal
