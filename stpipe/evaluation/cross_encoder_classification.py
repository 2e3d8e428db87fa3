"""Does a cross-encoder put pairs of texts into the right class?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from stpipe.config.errors import ConfigError
from stpipe.config.fields import option
from stpipe.config.metrics import metric, metric_facts
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.details import calibration, confusion, probabilities, score_histogram
from stpipe.evaluation.labels import binary_labels, class_labels, refuse_constant
from stpipe.evaluation.metrics import (
    Cuts,
    average_precision,
    best_accuracy,
    best_average_precision,
    best_f1,
    f1_of_classes,
    macro_f1,
)
from stpipe.evaluation.scoring import PairEvaluator, ScoringModel, outputs_of
from stpipe.evaluation.significance import RowMetric

ALIASES = (
    "CrossEncoderClassificationEvaluator",
    "CEBinaryClassificationEvaluator",
    "CEBinaryAccuracyEvaluator",
    "CESoftmaxAccuracyEvaluator",
    "CEF1Evaluator",
)


#: Metrics, details (None where there are none), and the primary metric of any sample of the rows.
Parts = tuple[dict[str, float], dict[str, Any], RowMetric]


@EVALUATORS.register("cross_encoder_classification", aliases=ALIASES)
@dataclass(frozen=True, kw_only=True)
class CrossEncoderClassificationEvaluator(PairEvaluator):
    """Accuracy and F1 of classes of pairs. What is reported depends on the outputs of the model.

    One output: average precision, and accuracy, F1, precision and recall at the best threshold, of pairs that belong together
    (label 1) or do not (0). Thresholds are chosen on the evaluated rows themselves, one for accuracy and one for F1. One output
    for each class: accuracy, and F1 as the mean over classes (`f1_macro`), over rows (`f1_micro`) and over classes weighted by
    their rows (`f1_weighted`); the class of a pair is that of its greatest output.
    """

    formats: ClassVar[tuple[str, ...]] = ("pair-class", "pair-score", "query-document")
    metrics = metric_facts(
        metric("average_precision", outputs="one"),
        metric("f1_macro", outputs="classes"),
        metric("accuracy"),
        metric("accuracy_threshold", better=None, outputs="one"),
        metric("f1", outputs="one"),
        metric("f1_threshold", better=None, outputs="one"),
        metric("precision", outputs="one"),
        metric("recall", outputs="one"),
        metric("f1_micro", outputs="classes"),
        metric("f1_weighted", outputs="classes"),
    )

    positive_labels: tuple[str, ...] | None = option(
        None, help="For one output: labels of pairs that belong together; all others do not. None expects labels 0 and 1."
    )

    def __call__(self, model: ScoringModel, rows: Rows, *, batch_size: int) -> Evaluation:
        self.check(rows)
        outputs = outputs_of(model)
        found, details, resample = self._binary(model, rows, batch_size) if outputs == "one" else self._classes(model, rows, batch_size)
        return Evaluation(
            found,
            self.primary(similarity="", outputs=outputs),
            evaluator=self._name(),
            num_rows=len(rows),
            details={name: detail for name, detail in details.items() if detail is not None},
            resample=resample,
        )

    def _binary(self, model: ScoringModel, rows: Rows, batch_size: int) -> Parts:
        labels = binary_labels(rows, self.positive_labels)
        refuse_constant(labels, rows, self._name())
        scores = self.scores(model, rows, batch_size=batch_size)
        cuts = Cuts.of(labels, scores)
        accuracy, accuracy_threshold = best_accuracy(cuts)
        f1 = best_f1(cuts)
        found = {
            "average_precision": average_precision(cuts),
            "accuracy": accuracy,
            "accuracy_threshold": accuracy_threshold,
            "f1": f1.f1,
            "f1_threshold": f1.threshold,
            "precision": f1.precision,
            "recall": f1.recall,
        }
        details = {
            "scores": score_histogram({"belong together": scores[labels], "others": scores[~labels]}, of="score"),
            "calibration": calibration(scores, labels, of="pairs that belong together"),
        }
        return found, details, RowMetric(best_average_precision, (labels, scores))

    def _classes(self, model: ScoringModel, rows: Rows, batch_size: int) -> Parts:
        if self.positive_labels is not None:
            raise ConfigError(
                f"{self._name()}: positive_labels is for models with one output, and this one has {model.num_labels}; remove it"
            )
        labels = class_labels(rows, model.num_labels)
        refuse_constant(labels, rows, self._name())
        outputs = self.scores(model, rows, batch_size=batch_size)
        predicted = outputs.argmax(axis=1)
        f1 = f1_of_classes(labels, predicted)
        accuracy = float((labels == predicted).mean())
        # Of rows with one class each, F1 over all rows is the share of rows that are right.
        found = {"f1_macro": f1.macro, "accuracy": accuracy, "f1_micro": accuracy, "f1_weighted": f1.weighted}
        confidence = probabilities(outputs).max(axis=1)
        right = predicted == labels
        details = {
            "scores": score_histogram({"right": confidence[right], "wrong": confidence[~right]}, of="confidence"),
            "calibration": calibration(np.minimum(confidence, 1.0), right, of="pairs in their right class"),
            "confusion": confusion(labels, predicted, model.num_labels),
        }
        return found, details, RowMetric(macro_f1, (labels, predicted))
