"""What lies behind a metric, small enough to keep: histograms of scores, calibration, scores by label, confusion of classes.

Everything is plain JSON of bounded size, whatever the number of rows; the report draws it.

Shape legend: N rows (or pairs), C classes, Q queries, K ranks.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stpipe.evaluation.ranking import NO_DOC, Ranking

BINS = 40
CALIBRATION_BINS = 10
LABEL_GROUPS = 10
MAX_CLASSES = 20
QUANTILES = (10, 25, 50, 75, 90)


def score_histogram(series: Mapping[str, ArrayLike], *, of: str) -> dict[str, Any]:
    """Counts of scores in equal bins that all series share.

    Args:
        series: name ("relevant", "others", ...) -> scores; infinite ones are left out.
        of: what the scores are ("cosine", "score", ...).
    """
    finite = {name: values[np.isfinite(values)] for name, given in series.items() for values in [np.asarray(given, dtype=np.float64)]}
    everything = np.concatenate(list(finite.values())) if finite else np.empty(0)
    if everything.size == 0:
        return {"of": of, "edges": [0.0, 1.0], "series": {name: [0] for name in series}}
    low, high = float(everything.min()), float(everything.max())
    edges = np.linspace(low, high, BINS + 1) if high > low else np.array([low - 0.5, low + 0.5])
    counts = {name: np.histogram(values, bins=edges)[0].tolist() for name, values in finite.items()}
    return {"of": of, "edges": edges.tolist(), "series": counts}


def found_scores(ranking: Ranking, hit: NDArray[np.bool_], *, of: str) -> dict[str, Any]:
    """Histogram of the scores of the ranked documents (Q, K): relevant ones and others apart."""
    there = ranking.docs != NO_DOC
    return score_histogram({"relevant": ranking.scores[there & hit], "others": ranking.scores[there & ~hit]}, of=of)


def calibration(confidence: ArrayLike, right: ArrayLike, *, of: str) -> dict[str, Any] | None:
    """How often the model is right at each confidence; None when the values are no probabilities.

    Args:
        confidence: (N,) values in 0..1.
        right: (N,) true where what the confidence is about is so.
        of: what it is about, in words.

    Returns:
        bins with `rows`, mean `confidence` and the share of `right`; empty bins are left out. `error`: the mean of
        |confidence - right| over bins, weighted by their rows (expected calibration error, Naeini et al. 2015).
    """
    values, truth = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if values.size == 0 or values.min() < 0 or values.max() > 1:
        return None
    place = np.minimum((values * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    rows = np.bincount(place, minlength=CALIBRATION_BINS)
    used = rows > 0
    means = np.bincount(place, weights=values, minlength=CALIBRATION_BINS)[used] / rows[used]
    shares = np.bincount(place, weights=truth, minlength=CALIBRATION_BINS)[used] / rows[used]
    bins = [
        {"rows": int(n), "confidence": float(mean), "right": float(share)} for n, mean, share in zip(rows[used], means, shares, strict=True)
    ]
    return {"of": of, "bins": bins, "error": float(np.abs(means - shares) @ rows[used] / len(values))}


def scores_by_label(labels: ArrayLike, scores: ArrayLike, *, of: str) -> dict[str, Any]:
    """Quantiles of the scores (N,) of rows with about the same label (N,): of each label when they are few, else of ten equal spans."""
    truth, values = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    distinct = np.unique(truth)
    if len(distinct) <= LABEL_GROUPS:
        place, spans = np.searchsorted(distinct, truth), [(float(label), float(label)) for label in distinct]
    else:
        edges = np.linspace(distinct[0], distinct[-1], LABEL_GROUPS + 1)
        place = np.clip(np.searchsorted(edges, truth, side="right") - 1, 0, LABEL_GROUPS - 1)
        spans = [(float(low), float(high)) for low, high in itertools.pairwise(edges)]
    groups = [_group(span, values[place == i]) for i, span in enumerate(spans) if (place == i).any()]
    return {"of": of, "groups": groups}


def _group(span: tuple[float, float], values: NDArray[np.float64]) -> dict[str, Any]:
    quantiles = np.percentile(values, QUANTILES).tolist()
    return {"low": span[0], "high": span[1], "rows": len(values), **{f"p{q}": v for q, v in zip(QUANTILES, quantiles, strict=True)}}


def confusion(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> list[list[int]] | None:
    """(C, C) rows by label and prediction; None when the classes are too many to look at."""
    if num_classes > MAX_CLASSES:
        return None
    return np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes).tolist()


def probabilities(outputs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(N, C) outputs of a classifier as probabilities: as they are when they are some, else their softmax."""
    values = np.asarray(outputs, dtype=np.float64)
    if (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3):
        return values
    raised = np.exp(values - values.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)
