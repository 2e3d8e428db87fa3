"""Formulas against ir-measures (pytrec_eval), scikit-learn and scipy."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, P, R, Success, nDCG
from scipy import stats
from sklearn import metrics as sk

from stpipe.evaluation import metrics

NUM_QUERIES, DEPTH = 60, 30


@pytest.fixture(scope="module")
def ranked() -> dict[str, np.ndarray]:
    """Random graded rankings in which some relevant documents are not found, and some queries find none."""
    rng = np.random.default_rng(3)
    grades = rng.choice([0, 0, 0, 0, 1, 2, 3], size=(NUM_QUERIES, DEPTH)).astype(float)
    grades[:5] = 0
    missed = rng.choice([0, 1, 3], size=(NUM_QUERIES, 4)).astype(float)
    missed[:, 0] = 2
    every = np.concatenate([grades, missed], axis=1)
    return {"gain": grades, "missed": missed, "ideal": -np.sort(-every, axis=1), "relevant": (every > 0).sum(axis=1)}


@pytest.fixture(scope="module")
def oracle(ranked: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """measure -> query -> value by ir-measures."""
    qrels, run = [], []
    for q in range(NUM_QUERIES):
        for rank, grade in enumerate(ranked["gain"][q]):
            qrels.append(ir_measures.Qrel(str(q), f"d{rank}", int(grade)))
            run.append(ir_measures.ScoredDoc(str(q), f"d{rank}", 100.0 - rank))
        qrels += [ir_measures.Qrel(str(q), f"missed{i}", int(grade)) for i, grade in enumerate(ranked["missed"][q])]
    measures = [nDCG @ 10, nDCG @ 5, Success @ 3, P @ 5, R @ 5, RR @ 10, AP @ 12, AP]
    found: dict[str, dict[str, float]] = {}
    for m in ir_measures.iter_calc(measures, qrels, run):
        found.setdefault(str(m.measure), {})[m.query_id] = m.value
    return found


@pytest.mark.parametrize("measure", ["nDCG@10", "nDCG@5", "Success@3", "P@5", "R@5", "RR@10", "AP"])
def test_ranking_metrics_are_those_of_ir_measures(ranked: dict[str, np.ndarray], oracle: dict[str, dict[str, float]], measure: str) -> None:
    gain, hit, relevant = ranked["gain"], ranked["gain"] > 0, ranked["relevant"]
    ours = {
        "nDCG@10": metrics.ndcg_at_k(gain, ranked["ideal"], 10),
        "nDCG@5": metrics.ndcg_at_k(gain, ranked["ideal"], 5),
        "Success@3": metrics.accuracy_at_k(hit, 3),
        "P@5": metrics.precision_at_k(hit, 5),
        "R@5": metrics.recall_at_k(hit, relevant, 5),
        "RR@10": metrics.reciprocal_rank_at_k(hit, 10),
        "AP": metrics.average_precision_at_k(hit, relevant),
    }[measure]
    theirs = np.array([oracle[measure][str(q)] for q in range(NUM_QUERIES)])
    assert theirs.std() > 0.05 and (theirs == 0).any()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_map_divides_by_the_documents_that_fit(ranked: dict[str, np.ndarray], oracle: dict[str, dict[str, float]]) -> None:
    """The one difference to trec_eval, for queries with more than k relevant documents."""
    hit, relevant = ranked["gain"] > 0, ranked["relevant"]
    assert relevant.min() < 12 < relevant.max()
    ours = metrics.average_precision_at_k(hit, relevant, 12)
    theirs = np.array([oracle["AP@12"][str(q)] for q in range(NUM_QUERIES)])
    np.testing.assert_allclose(ours * np.minimum(relevant, 12) / relevant, theirs, rtol=0, atol=1e-9)
    assert metrics.average_precision_at_k(np.ones((1, 5), dtype=bool), np.array([9]), 5) == 1.0


def test_ranks_shorter_than_k() -> None:
    hit = np.array([[False, True]])
    gain = hit.astype(float)
    assert metrics.precision_at_k(hit, 10) == pytest.approx(0.1)
    assert metrics.ndcg_at_k(gain, np.array([[1.0, 0.0]]), 10) == pytest.approx(1 / np.log2(3))
    assert metrics.first_rank(np.zeros((2, 0), dtype=bool)).tolist() == [0, 0]


@pytest.mark.parametrize("levels", [5, 1000])
def test_correlations_are_those_of_scipy(levels: int) -> None:
    rng = np.random.default_rng(levels)
    x = rng.integers(levels, size=400).astype(float)
    y = np.round(x / levels + rng.normal(size=400), 1)
    assert metrics.pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert metrics.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    np.testing.assert_array_equal(metrics.average_ranks(y), stats.rankdata(y))


def test_correlation_of_a_constant_is_undefined() -> None:
    assert np.isnan(metrics.pearson([1, 1, 1], [1, 2, 3]))
    assert np.isnan(metrics.spearman([1, 2, 3], [0.1, 0.1, 0.1]))


@pytest.mark.parametrize("decimals", [1, 8])
def test_classification_metrics_are_those_of_scikit_learn(decimals: int) -> None:
    """With many equal scores (one decimal) and with none."""
    rng = np.random.default_rng(decimals)
    labels = rng.integers(2, size=300).astype(bool)
    scores = np.round(labels * 0.7 + rng.normal(size=300), decimals)
    cuts = metrics.Cuts.of(labels, scores)
    assert metrics.average_precision(cuts) == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-12)

    thresholds = [*np.unique(scores), np.inf]
    accuracy, threshold = metrics.best_accuracy(cuts)
    assert accuracy == pytest.approx(max(sk.accuracy_score(labels, scores >= t) for t in thresholds), abs=1e-12)
    assert sk.accuracy_score(labels, scores >= threshold) == pytest.approx(accuracy, abs=1e-12)

    f1 = metrics.best_f1(cuts)
    said = scores >= f1.threshold
    assert f1.f1 == pytest.approx(max(sk.f1_score(labels, scores >= t) for t in thresholds[:-1]), abs=1e-12)
    assert f1.f1 == pytest.approx(sk.f1_score(labels, said), abs=1e-12)
    assert f1.precision == pytest.approx(sk.precision_score(labels, said), abs=1e-12)
    assert f1.recall == pytest.approx(sk.recall_score(labels, said), abs=1e-12)
    assert f1.mcc == pytest.approx(sk.matthews_corrcoef(labels, said), abs=1e-12)


def test_best_accuracy_may_take_in_no_row() -> None:
    accuracy, threshold = metrics.best_accuracy(metrics.Cuts.of([True, False, False, False], [0.1, 0.9, 0.8, 0.7]))
    assert accuracy == 0.75 and threshold > 0.9


def test_a_threshold_between_neighbouring_floats_splits_them() -> None:
    low = 0.5
    high = float(np.nextafter(low, 1))
    _, threshold = metrics.best_accuracy(metrics.Cuts.of([True, False], [high, low]))
    assert low < threshold <= high


def test_matthews_of_one_column_is_zero() -> None:
    assert metrics.matthews(3, 5, 3, 5) == 0.0
