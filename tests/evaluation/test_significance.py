"""Paired tests against scipy, exact enumeration, and their own promise of coverage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from stpipe.config.errors import DataError
from stpipe.evaluation.metrics import spearman
from stpipe.evaluation.significance import (
    RowMetric,
    bootstrap_values,
    mean_interval,
    paired_bootstrap,
    permutation_test,
    row_difference,
    row_interval,
)


def samples(shift: float, size: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    b = rng.uniform(size=size)
    return b + shift + 0.3 * rng.normal(size=size), b


def test_bootstrap_interval_is_that_of_scipy() -> None:
    a, b = samples(0.05)
    ours = paired_bootstrap(a, b)
    theirs = stats.bootstrap((a - b,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert ours.mean == pytest.approx((a - b).mean(), abs=1e-15) and ours.num_queries == 200
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=2e-3)
    assert ours.low < ours.mean < ours.high


@pytest.mark.parametrize("shift", [0.0, 0.03, -0.03, 0.2])
def test_p_values_agree_with_the_t_test(shift: float) -> None:
    a, b = samples(shift, seed=5)
    expected = stats.ttest_rel(a, b).pvalue
    assert paired_bootstrap(a, b).p == pytest.approx(expected, abs=0.02)
    assert permutation_test(a, b) == pytest.approx(expected, abs=0.02)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        a, b = samples(0.1, size=60, seed=seed)
        found = paired_bootstrap(a, b, resamples=500)
        covered += found.low <= 0.1 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_results_depend_on_the_seed_only() -> None:
    a, b = samples(0.02)
    assert paired_bootstrap(a, b) == paired_bootstrap(a.tolist(), b.tolist())
    assert paired_bootstrap(a, b, seed=1) != paired_bootstrap(a, b, seed=2)
    assert permutation_test(a, b, seed=1) == permutation_test(a, b, seed=1)


def test_a_wider_interval_for_more_confidence() -> None:
    a, b = samples(0.02)
    wide, narrow = paired_bootstrap(a, b, confidence=0.99), paired_bootstrap(a, b, confidence=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_equal_systems_differ_by_nothing() -> None:
    found = paired_bootstrap([0.5, 0.2, 0.9], [0.5, 0.2, 0.9])
    assert (found.mean, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert permutation_test([0.5, 0.2, 0.9], [0.5, 0.2, 0.9]) == 1.0


def test_few_queries_are_permuted_exactly() -> None:
    a, b = np.array([0.9, 0.4, 0.7, 0.8, 0.3]), np.array([0.1, 0.2, 0.8, 0.5, 0.2])
    sums = [abs(np.dot(signs, a - b)) for signs in itertools.product((1, -1), repeat=5)]
    expected = np.mean([s >= abs((a - b).sum()) - 1e-12 for s in sums])
    assert 0 < expected < 1
    assert permutation_test(a, b) == expected


def test_one_query_shows_nothing() -> None:
    assert permutation_test([1.0], [0.0]) == 1.0


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 2.0]), ([], []), ([float("nan")], [1.0])])
def test_unpaired_or_undefined_scores_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(DataError, match="a paired test needs"):
        paired_bootstrap(a, b)


def test_intervals_of_means_and_of_row_metrics_are_those_of_scipy() -> None:
    a, b = samples(0.0, size=150)
    theirs = stats.bootstrap((a,), np.mean, n_resamples=4_000, method="percentile", rng=np.random.default_rng(2)).confidence_interval
    assert mean_interval(a) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    metric = RowMetric(spearman, (a, b))
    theirs = stats.bootstrap(
        (a, b), lambda x, y: stats.spearmanr(x, y)[0], paired=True, vectorized=False, n_resamples=1_000, method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    found = row_interval(metric)
    assert found is not None and found == pytest.approx((theirs.low, theirs.high), abs=0.03)
    assert found[0] < metric(np.arange(150)) < found[1]


def test_differences_of_row_metrics_use_the_same_samples() -> None:
    a, b = samples(0.0, size=150)
    noise = np.random.default_rng(9).normal(size=150)
    better, worse = RowMetric(spearman, (b, a)), RowMetric(spearman, (b, a + noise))
    found = row_difference(better, worse)
    assert found is not None and found.num_queries == 150
    assert found.mean == pytest.approx(spearman(b, a) - spearman(b, a + noise), abs=1e-12)
    assert 0 < found.low < found.mean < found.high and found.p < 0.05
    same = row_difference(better, RowMetric(spearman, (b, a)))
    assert same is not None and (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    samples_of = bootstrap_values(better, worse)
    rng = np.random.default_rng(12)
    rows = rng.integers(150, size=150)
    assert samples_of[0].tolist() == [better(rows), worse(rows)]


def test_row_metrics_that_are_undefined_have_no_interval() -> None:
    flat = RowMetric(spearman, (np.arange(20.0), np.zeros(20)))
    assert row_interval(flat) is None
    assert row_difference(flat, flat) is None
    with pytest.raises(DataError, match="20 and 3 rows"):
        row_difference(flat, RowMetric(spearman, (np.arange(3.0), np.arange(3.0))))
    assert len(bootstrap_values(RowMetric(lambda x: float(x.mean()), (np.zeros(200_000),)))) == 200
