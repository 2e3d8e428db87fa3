"""Metrics as functions of arrays: what is in the ranks, and what should have been.

Shape legend: Q queries, K ranks of each query (at least k, or all documents there are), N rows.
gain (Q, K) grade of the document at each rank, 0 for a document without a grade and behind the last; hit (Q, K) bool
relevant; num_relevant (Q,) relevant documents of each query anywhere, at least 1. Every ranking metric is (Q,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def accuracy_at_k(hit: Bools, k: int) -> Floats:
    """1 when one of the first k documents is relevant (also called success or hit rate)."""
    return np.asarray(hit[:, :k].any(axis=1), dtype=np.float64)


def precision_at_k(hit: Bools, k: int) -> Floats:
    """Relevant documents among the first k, divided by k."""
    return hit[:, :k].sum(axis=1) / k


def recall_at_k(hit: Bools, num_relevant: NDArray[np.int64], k: int) -> Floats:
    """Relevant documents among the first k, divided by all relevant ones."""
    return hit[:, :k].sum(axis=1) / num_relevant


def first_rank(hit: Bools) -> NDArray[np.int64]:
    """(Q,) rank of the first relevant document, from 1; 0 when there is none in the ranks."""
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0) if hit.shape[1] else np.zeros(len(hit), dtype=np.int64)


def reciprocal_rank_at_k(hit: Bools, k: int) -> Floats:
    """1 / rank of the first relevant document, 0 when it is not among the first k."""
    rank = first_rank(hit[:, :k])
    return np.where(rank > 0, 1.0 / np.maximum(rank, 1), 0.0)


def average_precision_at_k(hit: Bools, num_relevant: NDArray[np.int64], k: int | None = None) -> Floats:
    """Sum of the precision at each relevant document among the first k, divided by min(k, all relevant documents).

    That divisor is the one of the sentence-transformers documentation; trec_eval's map_cut divides by all relevant
    documents, so the two differ only for queries with more than k of them. None is every rank.
    """
    hit = hit[:, :k]
    precision = hit.cumsum(axis=1) / np.arange(1, hit.shape[1] + 1)
    return (precision * hit).sum(axis=1) / (num_relevant if k is None else np.minimum(num_relevant, k))


def dcg_at_k(gain: Floats, k: int) -> Floats:
    """Sum over the first k ranks of gain / log2(rank + 1); Jarvelin and Kekalainen 2002, gains used as they are."""
    top = gain[:, :k]
    return (top / np.log2(np.arange(2, top.shape[1] + 2))).sum(axis=1)


def ndcg_at_k(gain: Floats, ideal: Floats, k: int) -> Floats:
    """dcg_at_k divided by that of the best possible order. ideal (Q, K') all gains of a query, falling, 0 behind the last."""
    return dcg_at_k(gain, k) / dcg_at_k(ideal, k)


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Linear correlation of two samples (N,); NaN when one of them is constant."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return float(np.clip(a @ b, -1.0, 1.0))


def average_ranks(values: ArrayLike) -> Floats:
    """(N,) ranks from 1, equal values sharing the mean of their ranks."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return (ends - (counts - 1) / 2)[inverse]


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Correlation of the ranks of two samples (N,); NaN when one of them is constant."""
    return pearson(average_ranks(x), average_ranks(y))


def best_spearman(labels: ArrayLike, *scores: ArrayLike) -> float:
    """The greatest rank correlation of labels (N,) with several scores (N,); NaN where none is defined."""
    found = [spearman(labels, values) for values in scores]
    return max((value for value in found if not math.isnan(value)), default=math.nan)


@dataclass(frozen=True)
class Cuts:
    """The ways to split N rows by a threshold on a score, from the strictest to the most generous.

    score (G,) distinct scores, falling; true_positives, predicted (G,): positive rows, and all rows, with at least that
    score; num_positives, num_rows: in all.
    """

    score: Floats
    true_positives: NDArray[np.int64]
    predicted: NDArray[np.int64]
    num_positives: int
    num_rows: int

    @staticmethod
    def of(labels: ArrayLike, scores: ArrayLike) -> Cuts:
        """labels (N,) true = positive, scores (N,) higher = more likely positive. Equal scores are never split."""
        positive = np.asarray(labels, dtype=bool)
        score, inverse = np.unique(-np.asarray(scores, dtype=np.float64), return_inverse=True)
        counts = np.bincount(inverse, minlength=len(score))
        hits = np.bincount(inverse, weights=positive, minlength=len(score)).astype(np.int64)
        return Cuts(-score, hits.cumsum(), counts.cumsum(), int(positive.sum()), len(positive))

    def threshold(self, group: int) -> float:
        """Half-way between the lowest score taken in and the next; the lowest score itself when nothing is below."""
        if group == len(self.score) - 1:
            return float(self.score[group])
        middle = (self.score[group] + self.score[group + 1]) / 2
        return float(middle if middle > self.score[group + 1] else self.score[group])


def average_precision(cuts: Cuts) -> float:
    """Sum over thresholds of precision x gain in recall (no interpolation)."""
    precision = cuts.true_positives / cuts.predicted
    recall = cuts.true_positives / cuts.num_positives
    return float((precision * np.diff(recall, prepend=0.0)).sum())


def best_average_precision(labels: NDArray[np.bool_], *scores: ArrayLike) -> float:
    """The greatest average precision under several scores (N,) of the same rows; NaN without a positive row."""
    return max(average_precision(Cuts.of(labels, values)) for values in scores) if labels.any() else math.nan


def best_accuracy(cuts: Cuts) -> tuple[float, float]:
    """(accuracy, threshold) of the cut with most rows on the right side, the strictest of equals.

    The cut that takes in no row counts too; its threshold is the next float64 above all scores.
    """
    negatives = cuts.num_rows - cuts.num_positives
    right = cuts.true_positives + negatives - (cuts.predicted - cuts.true_positives)
    best = int(right.argmax())
    if right[best] <= negatives:
        return negatives / cuts.num_rows, float(np.nextafter(cuts.score[0], np.inf))
    return float(right[best] / cuts.num_rows), cuts.threshold(best)


@dataclass(frozen=True)
class BestF1:
    """The cut with the greatest F1; mcc: Matthews correlation of the same cut (0 when it takes in every row)."""

    f1: float
    precision: float
    recall: float
    threshold: float
    mcc: float


def best_f1(cuts: Cuts) -> BestF1:
    """The cut with the greatest F1 = 2 tp / (predicted + positives), the strictest of equals."""
    f1 = 2 * cuts.true_positives / (cuts.predicted + cuts.num_positives)
    best = int(f1.argmax())
    tp, predicted = int(cuts.true_positives[best]), int(cuts.predicted[best])
    return BestF1(
        f1=float(f1[best]),
        precision=tp / predicted,
        recall=tp / cuts.num_positives,
        threshold=cuts.threshold(best),
        mcc=matthews(tp, predicted, cuts.num_positives, cuts.num_rows),
    )


def matthews(true_positives: int, predicted: int, positives: int, rows: int) -> float:
    """Matthews correlation of a two-way table, 0 where it is undefined."""
    spread = predicted * (rows - predicted) * positives * (rows - positives)
    return (true_positives * rows - predicted * positives) / spread**0.5 if spread else 0.0


@dataclass(frozen=True)
class ClassF1:
    """F1 of each class, as one number: macro is their mean, weighted the mean weighted by the rows of each class."""

    macro: float
    weighted: float


def macro_f1(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """Mean F1 of the classes."""
    return f1_of_classes(labels, predicted).macro


def f1_of_classes(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> ClassF1:
    """F1 = 2 tp / (labelled + predicted) of each class that is a label or a prediction of any of the rows (N,).

    Classes that are neither have no F1 and do not count, as in scikit-learn's f1_score.
    """
    size = int(max(labels.max(), predicted.max())) + 1
    support, guessed, right = (np.bincount(x, minlength=size) for x in (labels, predicted, labels[labels == predicted]))
    there = support + guessed > 0
    f1 = 2 * right[there] / (support + guessed)[there]
    return ClassF1(float(f1.mean()), float(f1 @ support[there] / len(labels)))
