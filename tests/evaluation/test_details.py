"""Distributions behind metrics against plain loops, and the evaluators that give them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from stpipe.evaluation import (
    BinaryClassificationEvaluator,
    CrossEncoderClassificationEvaluator,
    CrossEncoderCorrelationEvaluator,
    EmbeddingSimilarityEvaluator,
    TripletEvaluator,
)
from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.details import BINS, calibration, confusion, found_scores, probabilities, score_histogram, scores_by_label
from stpipe.evaluation.metrics import best_average_precision, best_spearman, macro_f1, spearman
from stpipe.evaluation.ranking import NO_DOC, Ranking
from tests.evaluation.toy import Collapsed, ToyModel, ToyScorer, classed, classes_of_pairs, scored, tuples

RNG = np.random.default_rng(3)


def test_histograms_share_their_bins() -> None:
    one, two = RNG.normal(size=300), RNG.normal(1.0, size=200)
    found = score_histogram({"a": one, "b": np.append(two, -np.inf)}, of="score")
    edges = found["edges"]
    assert len(edges) == BINS + 1 and (edges[0], edges[-1]) == (min(one.min(), two.min()), max(one.max(), two.max()))
    for name, values in (("a", one), ("b", two)):
        counts = [0] * BINS
        for value in values:
            place = next((i for i in range(BINS) if edges[i] <= value < edges[i + 1]), BINS - 1)
            counts[place] += 1
        assert found["series"][name] == counts
    assert sum(found["series"]["b"]) == 200


@pytest.mark.parametrize("values", [[], [0.5, 0.5, 0.5]])
def test_histograms_of_nothing_and_of_one_value(values: list[float]) -> None:
    found = score_histogram({"a": values}, of="score")
    assert sum(found["series"]["a"]) == len(values)
    assert found["edges"] == sorted(found["edges"]) and found["edges"][0] < found["edges"][-1]


def test_scores_of_found_documents_leave_out_the_empty_ranks() -> None:
    ranking = Ranking(np.array([[3, 1, 2], [2, NO_DOC, NO_DOC]]), np.array([[0.9, 0.5, 0.1], [0.7, -np.inf, -np.inf]], dtype=np.float32))
    hit = np.array([[True, False, False], [True, False, False]])
    found = found_scores(ranking, hit, of="cosine")["series"]
    assert (sum(found["relevant"]), sum(found["others"])) == (2, 2)


def test_calibration_is_that_of_a_loop() -> None:
    confidence = RNG.uniform(size=500)
    right = RNG.uniform(size=500) < confidence**2
    found = calibration(confidence, right, of="x")
    assert found is not None
    error, rows = 0.0, 0
    for i, b in enumerate(found["bins"]):
        inside = [(c, r) for c, r in zip(confidence, right, strict=True) if i / 10 <= c < (i + 1) / 10]
        assert b["rows"] == len(inside) > 0
        assert b["confidence"] == pytest.approx(sum(c for c, _ in inside) / len(inside), abs=1e-12)
        assert b["right"] == pytest.approx(sum(r for _, r in inside) / len(inside), abs=1e-12)
        error += len(inside) / 500 * abs(b["confidence"] - b["right"])
        rows += len(inside)
    assert rows == 500 and found["error"] == pytest.approx(error, abs=1e-12) and error > 0.1


def test_calibration_takes_one_and_refuses_what_is_no_probability() -> None:
    found = calibration([1.0, 1.0, 0.0], [1, 0, 0], of="x")
    assert found is not None and [b["rows"] for b in found["bins"]] == [1, 2]
    assert (
        calibration([1.2, 0.3], [1, 0], of="x") is None and calibration([-0.1], [1], of="x") is None and calibration([], [], of="x") is None
    )


@pytest.mark.parametrize("labels", [RNG.integers(0, 5, 400) / 5.0, RNG.uniform(0, 5, 400)], ids=["few", "many"])
def test_quantiles_by_label(labels: np.ndarray) -> None:
    scores = labels + RNG.normal(size=400)
    groups = scores_by_label(labels, scores, of="x")["groups"]
    assert 5 <= len(groups) <= 10 and sum(g["rows"] for g in groups) == 400
    for i, g in enumerate(groups):
        last = i == len(groups) - 1
        inside = [
            s
            for label, s in zip(labels, scores, strict=True)
            if g["low"] <= label < g["high"] or label in (g["low"], g["high"] if last else g["low"])
        ]
        assert len(inside) == g["rows"]
        assert [g[f"p{q}"] for q in (10, 25, 50, 75, 90)] == pytest.approx([np.percentile(inside, q) for q in (10, 25, 50, 75, 90)])


def test_confusion_and_probabilities() -> None:
    assert confusion(np.array([0, 1, 2, 2]), np.array([0, 2, 2, 1]), 3) == [[1, 0, 0], [0, 0, 1], [0, 1, 1]]
    assert confusion(np.array([0]), np.array([0]), 50) is None
    logits = RNG.normal(size=(4, 3)) * 30
    soft = probabilities(logits)
    for row, out in zip(logits, soft, strict=True):
        total = math.fsum(math.exp(x - max(row)) for x in row)
        assert out == pytest.approx([math.exp(x - max(row)) / total for x in row], abs=1e-12)
    assert probabilities(soft).tolist() == soft.tolist()


def evaluations() -> dict[str, Evaluation]:
    return {
        "sts": EmbeddingSimilarityEvaluator(similarities=("cosine", "dot"))(ToyModel(), scored(), batch_size=8),
        "pairs": BinaryClassificationEvaluator()(ToyModel(), classed(), batch_size=8),
        "triplet": TripletEvaluator()(ToyModel(), tuples(), batch_size=8),
        "correlation": CrossEncoderCorrelationEvaluator()(ToyScorer(), scored(), batch_size=8),
        "one": CrossEncoderClassificationEvaluator()(ToyScorer(), classed(), batch_size=8),
        "classes": CrossEncoderClassificationEvaluator()(ToyScorer(num_labels=3), classes_of_pairs(), batch_size=8),
    }


def test_evaluators_say_what_lies_behind_their_metrics() -> None:
    found = evaluations()
    kinds = {name: set(result.details) for name, result in found.items()}
    assert kinds == {
        "sts": {"scores", "by_label"},
        "pairs": {"scores"},
        "triplet": {"scores"},
        "correlation": {"scores", "by_label"},
        "one": {"scores", "calibration"},
        "classes": {"scores", "calibration", "confusion"},
    }
    sizes: dict[str, Any] = {name: len(json.dumps(dict(result.details), allow_nan=False)) for name, result in found.items()}
    assert max(sizes.values()) < 6000
    assert {s: sum(c) for s, c in found["triplet"].details["scores"]["series"].items()} == {"positives": 40, "negatives": 80}


def test_metrics_of_all_rows_again_and_of_a_sample() -> None:
    for name, result in evaluations().items():
        if name != "triplet":
            assert result.resample is not None
            rows = np.arange(len(result.resample))
            assert result.resample(rows) == pytest.approx(result.primary_value, abs=1e-12), name
            assert result.resample(rows[: len(rows) // 2]) != result.primary_value, name
    assert EmbeddingSimilarityEvaluator()(Collapsed(), scored(), batch_size=8).resample is not None


def test_the_best_of_several_functions() -> None:
    labels, good, flat = np.arange(6.0), np.array([0, 1, 2, 4, 3, 5.0]), np.zeros(6)
    assert best_spearman(labels, flat, good) == best_spearman(labels, good, flat) == spearman(labels, good)
    assert math.isnan(best_spearman(labels, flat))
    positive = labels > 2
    assert best_average_precision(positive, -good, good) == best_average_precision(positive, good) == 1.0
    assert math.isnan(best_average_precision(np.zeros(6, dtype=bool), good))
    assert macro_f1(np.array([0, 1, 1]), np.array([0, 1, 0])) == pytest.approx((2 / 3 + 2 / 3) / 2)
