"""One paired test of two runs by one metric: difference, interval, two p values, size of the effect."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.config.metrics import Better
from stpipe.evaluation.significance import (
    Difference,
    RowMetric,
    effect_size,
    paired_bootstrap,
    permutation_test,
    row_difference,
    row_permutation_test,
)
from stpipe.reports import quality, run_record


class NotComparableError(Exception):
    """Two results that no paired test fits; the message says why."""


@dataclass(frozen=True)
class Resampling:
    """How often queries are resampled, the share of resamples inside an interval, and the seed."""

    resamples: int = 10_000
    confidence: float = 0.95
    seed: int = 12


@dataclass(frozen=True)
class PairedTest:
    """Candidate minus baseline.

    mean, low, high: difference and its percentile interval; p_bootstrap, p_permutation: two-sided p values of no difference;
    effect_size: Cohen's d of paired differences, None for metrics that are no means; count: queries or rows; left_out: queries that only
    one of the runs has; verdict: better or worse when the interval leaves out zero, else unclear.
    """

    metric: str
    mean: float
    low: float
    high: float
    p_bootstrap: float
    p_permutation: float | None
    effect_size: float | None
    count: int
    left_out: int
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    def drop(self, better: Better) -> float:
        """By how much the candidate is worse, negative when it is better; a metric without a good side never drops."""
        return 0.0 if better is None else -self.mean if better == "higher" else self.mean


class Pair(ABC):
    """Scores of two runs that belong together."""

    metric: str

    @abstractmethod
    def test(self, *, better: Better, resampling: Resampling) -> PairedTest:
        """Is the difference more than luck? Raises NotComparableError where the metric is undefined for most samples."""

    def _result(self, found: Difference, *, better: Better, p: float | None, effect: float | None = None, left_out: int = 0) -> PairedTest:
        recorded = run_record.Difference("", "", self.metric, found.mean, found.low, found.high, found.p)
        side = quality.verdict(recorded, better=better)
        count = found.num_queries
        return PairedTest(self.metric, found.mean, found.low, found.high, found.p, p, effect, count, left_out, side)


@dataclass(frozen=True)
class QueryPair(Pair):
    """Scores (Q,) of the same Q queries, of a metric that is their mean; left_out: how many queries only one of the two runs has."""

    metric: str
    candidate: NDArray[np.float64]
    baseline: NDArray[np.float64]
    left_out: int = 0

    def test(self, *, better: Better, resampling: Resampling) -> PairedTest:
        """Bootstrap and permutation over queries."""
        a, b, rounds = self.candidate, self.baseline, resampling.resamples
        found = paired_bootstrap(a, b, resamples=rounds, confidence=resampling.confidence, seed=resampling.seed)
        p = permutation_test(a, b, resamples=rounds, seed=resampling.seed)
        return self._result(found, better=better, p=p, effect=effect_size(a, b), left_out=self.left_out)


@dataclass(frozen=True)
class RowPair(Pair):
    """A metric of what two runs say of the same rows, such as a correlation."""

    metric: str
    candidate: RowMetric
    baseline: RowMetric

    def test(self, *, better: Better, resampling: Resampling) -> PairedTest:
        """Bootstrap and permutation over rows; fewer rounds where the rows are many (evaluation/significance.py)."""
        found = row_difference(self.candidate, self.baseline, confidence=resampling.confidence)
        if found is None:
            raise NotComparableError(f"{self.metric} is undefined for most samples of the rows")
        p = row_permutation_test(self.candidate, self.baseline, seed=resampling.seed)
        return self._result(found, better=better, p=p)
