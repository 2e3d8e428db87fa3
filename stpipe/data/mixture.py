"""Which data set each batch of an epoch comes from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stpipe.core.context import derive_seed

#: 2^64 divided by the golden ratio: its multiples fill any stretch of the numbers below 2^64 as evenly as can be.
GOLDEN = 0x9E3779B97F4A7C15
CHUNK = 1 << 16


class Turns:
    """Which data set a batch of an endless mixture comes from, by the number of the batch.

    round_robin: in turn. Else by weight: batch i takes the data set in whose share of [0, 1) the number frac(i / golden ratio + shift)
    falls, so that each data set is within a few batches of its share at any time, whatever the length of the run. The shift is the seed's.

    Args:
        mixing: round_robin, or by weight.
        weights: share of each data set, in any unit.
        seed: of the order.
    """

    def __init__(self, mixing: str, weights: Sequence[float], *, seed: int) -> None:
        self.count = len(weights)
        self.in_turn = mixing == "round_robin" or self.count == 1
        share = np.cumsum(np.array(weights, np.float64)) / sum(weights)
        self.bounds = (share[:-1] * 2.0**64).astype(np.uint64)
        self.shift = np.uint64(derive_seed(seed, 0x317) & (2**64 - 1))
        self._before = [np.zeros(self.count, np.int64)]

    def at(self, index: int) -> tuple[int, int]:
        """(data set, how-manieth batch of it) of batch `index`. Counting up to it takes about 10 ns a batch, once."""
        if self.in_turn:
            return index % self.count, index // self.count
        chunk, place = divmod(index, CHUNK)
        while len(self._before) <= chunk:
            last = self._which(len(self._before) - 1, CHUNK)
            self._before.append(self._before[-1] + np.bincount(last, minlength=self.count))
        which = self._which(chunk, place + 1)
        own = int(which[-1])
        return own, int(self._before[chunk][own]) + int((which[:-1] == own).sum())

    def _which(self, chunk: int, count: int) -> np.ndarray:
        """(count,) data set of the first batches of a chunk."""
        start = chunk * CHUNK
        with np.errstate(over="ignore"):
            points = np.arange(start, start + count, dtype=np.uint64) * np.uint64(GOLDEN) + self.shift
        return np.searchsorted(self.bounds, points, side="right")


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
