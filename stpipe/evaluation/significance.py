"""Is a difference between two systems more than luck of the queries? Paired tests over per-query scores.

Shape legend: Q queries, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stpipe.config.errors import DataError

BLOCK = 4_000_000


@dataclass(frozen=True)
class Difference:
    """Mean of a - b over queries, its percentile interval, and the two-sided p value of no difference."""

    mean: float
    low: float
    high: float
    p: float
    num_queries: int


def paired_bootstrap(a: ArrayLike, b: ArrayLike, *, resamples: int = 10_000, confidence: float = 0.95, seed: int = 12) -> Difference:
    """Resample the queries with replacement and look at the mean difference of each resample.

    Source: Efron and Tibshirani 1993, percentile interval; for IR, Sakai 2006. p is twice the share of resamples on
    the far side of zero, counting the observed one, so it is never 0.

    Args:
        a, b: (Q,) scores of the two systems on the same queries, in the same order.
        resamples: number of resamples R.
        confidence: share of resamples inside the interval.
        seed: of the resampling.
    """
    difference = _differences(a, b)
    rng = np.random.default_rng(seed)
    size = len(difference)
    means = np.concatenate([difference[rng.integers(size, size=(rows, size))].mean(axis=1) for rows in _blocks(resamples, size)])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    tail = min((means <= 0).sum(), (means >= 0).sum())
    p = min(1.0, 2 * (int(tail) + 1) / (resamples + 1))
    return Difference(float(difference.mean()), float(low), float(high), p, size)


def permutation_test(a: ArrayLike, b: ArrayLike, *, resamples: int = 10_000, seed: int = 12) -> float:
    """Two-sided p value of the mean difference when the systems' names are swapped at random on each query.

    Source: Fisher's randomisation test; Smucker, Allan and Carterette 2007. All 2^Q swaps are counted when they are no
    more than `resamples`, else random ones and the observed one.
    """
    difference = _differences(a, b)
    size = len(difference)
    # Sums that differ by rounding only must count as equal to the observed one.
    observed = abs(difference.sum()) - 1e-12 * np.abs(difference).sum()
    if size < 63 and 2**size <= resamples:
        codes = np.arange(2**size)[:, None] >> np.arange(size)[None, :]
        return float((np.abs((1 - 2 * (codes & 1)) @ difference) >= observed).mean())
    rng = np.random.default_rng(seed)
    extreme = 0
    for rows in _blocks(resamples, size):
        signs = rng.integers(2, size=(rows, size), dtype=np.int8) * 2.0 - 1.0
        extreme += int((np.abs(signs @ difference) >= observed).sum())
    return (extreme + 1) / (resamples + 1)


def _differences(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(x) == 0:
        raise DataError(f"a paired test needs scores of the same queries, at least one; found shapes {x.shape} and {y.shape}")
    if not np.isfinite(x - y).all():
        raise DataError("a paired test needs finite scores; some are NaN or infinite")
    return x - y


def _blocks(resamples: int, size: int) -> Iterator[int]:
    """Numbers of resamples that add up to `resamples`, each block holding about BLOCK numbers."""
    step = max(1, BLOCK // size)
    for start in range(0, resamples, step):
        yield min(step, resamples - start)
