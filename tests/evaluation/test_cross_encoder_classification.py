"""Classes of pairs: what is reported follows the outputs of the model."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from stpipe.config.errors import ConfigError, DataError
from stpipe.core.rows import Rows
from stpipe.evaluation import CrossEncoderClassificationEvaluator
from stpipe.evaluation.metrics import f1_of_classes
from tests.evaluation.toy import EqualScorer, ToyScorer, classed, classes_of_pairs, labelled, scored


def naive_f1(labels: list[int], predicted: list[int]) -> tuple[float, float]:
    """(macro, weighted) by counting."""
    f1, support = [], []
    for cls in sorted({*labels, *predicted}):
        right = sum(a == b == cls for a, b in zip(labels, predicted, strict=True))
        f1.append(2 * right / (labels.count(cls) + predicted.count(cls)))
        support.append(labels.count(cls))
    return sum(f1) / len(f1), sum(f * s for f, s in zip(f1, support, strict=True)) / len(labels)


@pytest.mark.parametrize("seed", range(5))
def test_f1_of_classes(seed: int) -> None:
    """Also of classes that nobody predicts, that no row has, and that are neither (4)."""
    rng = np.random.default_rng(seed)
    labels, predicted = rng.choice([0, 1, 2, 5], 50), rng.choice([0, 1, 3], 50)
    found = f1_of_classes(labels, predicted)
    assert (found.macro, found.weighted) == pytest.approx(naive_f1(labels.tolist(), predicted.tolist()), abs=1e-12)
    assert found.macro == pytest.approx(f1_score(labels, predicted, average="macro"), abs=1e-12) and 0 < found.macro < 1
    assert found.weighted == pytest.approx(f1_score(labels, predicted, average="weighted"), abs=1e-12)


def test_classes_are_those_of_the_greatest_output() -> None:
    rows, model = classes_of_pairs(), ToyScorer(num_labels=3)
    found = CrossEncoderClassificationEvaluator()(model, rows, batch_size=8)
    pairs = list(zip(rows.columns["anchor"], rows.columns["positive"], strict=True))
    predicted = model.logits(pairs).argmax(dim=1).tolist()
    macro, weighted = naive_f1(list(rows.labels or ()), predicted)
    accuracy = sum(a == b for a, b in zip(predicted, rows.labels or (), strict=True)) / len(rows)
    assert found.primary == "f1_macro" and 0.3 < accuracy < 0.95
    assert found.metrics == pytest.approx({"f1_macro": macro, "accuracy": accuracy, "f1_micro": accuracy, "f1_weighted": weighted})


@pytest.mark.parametrize("rows", [classed(), labelled()])
def test_one_output_is_cut_at_the_best_thresholds(rows: Rows) -> None:
    model = ToyScorer(noise=1.5)
    found = CrossEncoderClassificationEvaluator()(model, rows, batch_size=8).metrics
    first, second = rows.columns.values()
    scores = model.predict(list(zip(first, second, strict=True)))
    labels = np.array(rows.labels) == 1

    def accuracy(cut: float) -> float:
        return float(((scores >= cut) == labels).mean())

    def f1(cut: float) -> float:
        return 2 * float((labels & (scores >= cut)).sum()) / float(labels.sum() + (scores >= cut).sum())

    assert found["accuracy"] == pytest.approx(max(map(accuracy, [*scores, 2.0]))) == accuracy(found["accuracy_threshold"]) < 1
    assert found["f1"] == pytest.approx(max(map(f1, scores))) == f1(found["f1_threshold"]) < 1
    taken = scores >= found["f1_threshold"]
    assert found["precision"] == pytest.approx((labels & taken).sum() / taken.sum())
    assert found["recall"] == pytest.approx((labels & taken).sum() / labels.sum())
    assert found["average_precision"] == pytest.approx(average_precision_score(labels, scores))
    assert 0 < found["average_precision"] < 1


@pytest.mark.parametrize("outputs", [1, 3])
def test_names_are_those_declared_for_the_outputs(outputs: int) -> None:
    evaluator = CrossEncoderClassificationEvaluator()
    rows = classed() if outputs == 1 else classes_of_pairs()
    found = evaluator(ToyScorer(num_labels=outputs), rows, batch_size=8)
    declared = evaluator.metric_set(similarity="", kind="cross_encoder", outputs="one" if outputs == 1 else "classes")
    assert sorted(found.metrics) == sorted(declared.names) and found.primary == declared.primary
    assert all(type(value) is float for value in found.metrics.values()) and found.num_rows == 60


def test_labels_by_name() -> None:
    rows = classed()
    named = dataclasses.replace(rows, labels=[("other", "same")[label] for label in rows.labels or ()])
    found = CrossEncoderClassificationEvaluator(positive_labels=("same",))(ToyScorer(), named, batch_size=8)
    assert found.metrics == CrossEncoderClassificationEvaluator()(ToyScorer(), rows, batch_size=8).metrics
    with pytest.raises(ConfigError, match="positive_labels is for models with one output, and this one has 3; remove it"):
        CrossEncoderClassificationEvaluator(positive_labels=("same",))(ToyScorer(num_labels=3), named, batch_size=8)


@pytest.mark.parametrize(
    ("outputs", "rows", "message"),
    [
        (1, scored(), "row 1: label 0.2 is neither 0 nor 1"),
        (3, scored(), "row 1: label 0.2 is no class of a model with 3 outputs, expected a whole number from 0 to 2"),
        (2, classes_of_pairs(), "row 2: label 2 is no class of a model with 2 outputs.*found: 0, 1, 2"),
        (3, dataclasses.replace(classed(), labels=["a"] * 60), "row 0: label 'a' is no class"),
        (3, dataclasses.replace(classed(), labels=[1] * 60), "cross_encoder_classification: all 60 labels of data set 'default' are 1"),
        (1, dataclasses.replace(classed(), labels=[1] * 60), "all 60 labels of data set 'default' are True"),
    ],
)
def test_labels_that_cannot_be_classes_say_why(outputs: int, rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        CrossEncoderClassificationEvaluator()(ToyScorer(num_labels=outputs), rows, batch_size=8)


def test_a_model_that_tells_nothing_apart() -> None:
    found = CrossEncoderClassificationEvaluator()(EqualScorer(), classed(), batch_size=8).metrics
    assert found["average_precision"] == pytest.approx(1 / 3) and found["accuracy"] == pytest.approx(2 / 3)
