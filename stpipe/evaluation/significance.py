"""Is a difference between two systems more than luck of the queries, and how far is a value to be trusted? Resampling of queries or rows.

Shape legend: Q queries, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stpipe.config.errors import DataError

BLOCK = 4_000_000
BUDGET = 20_000_000  # rows looked at by all resamples of a metric together


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


@dataclass(frozen=True)
class RowMetric:
    """A metric that is no mean over rows, such as a correlation, ready to be computed for any sample of them.

    metric: takes the columns of the sample; columns: arrays of N rows each.
    """

    metric: Callable[..., float]
    columns: tuple[NDArray[np.generic], ...]

    def __len__(self) -> int:
        return len(self.columns[0])

    def __call__(self, rows: NDArray[np.int64]) -> float:
        """The metric of these rows (numbers, repeats allowed); NaN where it is undefined."""
        return self.metric(*(column[rows] for column in self.columns))


def bootstrap_values(*systems: RowMetric, resamples: int = 1_000, seed: int = 12) -> NDArray[np.float64]:
    """(R, systems) the metric of each system on the same R samples of the rows, drawn with replacement.

    R is at most `resamples`, less where the rows are many (BUDGET), at least 200.
    """
    size = len(systems[0])
    rng = np.random.default_rng(seed)
    rounds = max(200, min(resamples, BUDGET // max(size, 1)))
    samples = (rng.integers(size, size=size) for _ in range(rounds))
    return np.array([[system(rows) for system in systems] for rows in samples])


def mean_interval(scores: ArrayLike, *, resamples: int = 2_000, confidence: float = 0.95, seed: int = 12) -> tuple[float, float]:
    """Percentile interval of the mean of scores (Q,), which must be finite."""
    values = np.asarray(scores, dtype=np.float64)
    found = paired_bootstrap(values, np.zeros_like(values), resamples=resamples, confidence=confidence, seed=seed)
    return found.low, found.high


def row_interval(metric: RowMetric, *, confidence: float = 0.95) -> tuple[float, float] | None:
    """Percentile interval of a metric over rows; None when it is undefined for most samples."""
    values = bootstrap_values(metric)[:, 0]
    return None if np.isnan(values).mean() > 0.5 else _interval(values, confidence)


def row_difference(a: RowMetric, b: RowMetric, *, confidence: float = 0.95) -> Difference | None:
    """Difference a - b of a metric over the same rows, as `paired_bootstrap` gives it for means; None when it is undefined.

    The mean is the difference of the metrics of all rows, `num_queries` their number.
    """
    if len(a) != len(b):
        raise DataError(f"a paired test needs metrics of the same rows; found {len(a)} and {len(b)} rows")
    everything = np.arange(len(a))
    values = bootstrap_values(a, b)
    differences = values[:, 0] - values[:, 1]
    observed = a(everything) - b(everything)
    if np.isnan(differences).mean() > 0.5 or np.isnan(observed):
        return None
    known = differences[~np.isnan(differences)]
    tail = min((known <= 0).sum(), (known >= 0).sum())
    low, high = _interval(known, confidence)
    return Difference(float(observed), low, high, min(1.0, 2 * (int(tail) + 1) / (len(known) + 1)), len(a))


def _interval(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


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


def row_permutation_test(a: RowMetric, b: RowMetric, *, resamples: int = 1_000, seed: int = 12) -> float | None:
    """As `permutation_test`, for a metric that is no mean over rows: what the two systems say of a row changes places at random.

    Both metrics have the labels as their first column. None where the metric is undefined, or the systems differ in their columns.
    """
    if len(a) != len(b) or len(a.columns) != len(b.columns):
        return None
    everything = np.arange(len(a))
    observed = abs(a(everything) - b(everything))
    if np.isnan(observed):
        return None
    rng = np.random.default_rng(seed)
    rounds = max(200, min(resamples, BUDGET // max(len(a), 1)))
    extreme = known = 0
    for _ in range(rounds):
        swap = rng.random(len(a)) < 0.5
        pairs = [(np.where(swap, y, x), np.where(swap, x, y)) for x, y in zip(a.columns[1:], b.columns[1:], strict=True)]
        left = a.metric(a.columns[0], *(x for x, _ in pairs))
        right = b.metric(b.columns[0], *(y for _, y in pairs))
        known += not np.isnan(left - right)
        extreme += bool(abs(left - right) >= observed - 1e-12)
    return (extreme + 1) / (known + 1) if known > rounds / 2 else None


def effect_size(a: ArrayLike, b: ArrayLike) -> float | None:
    """Mean of the paired differences a - b (Q,) in units of their standard deviation: Cohen's d of paired samples (Cohen 1988, 2.3.5).

    None with fewer than two queries, or when all differ by the same amount.
    """
    difference = _differences(a, b)
    spread = float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
    return float(difference.mean()) / spread if spread > 0 else None


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number, in the same order; none says more than it would if it were the only one.

    Source: Holm 1979. The i-th smallest of m (from 0) times m - i, never below a smaller one's, at most 1.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


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
