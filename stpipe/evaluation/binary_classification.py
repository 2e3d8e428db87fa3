"""Can a threshold on similarity tell pairs that belong together from pairs that do not?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stpipe.config.fields import option
from stpipe.config.metrics import MAX, metric, metric_facts, similarity_names
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation.base import EmbeddingEvaluator, Evaluation
from stpipe.evaluation.details import score_histogram
from stpipe.evaluation.encoding import EmbeddingModel
from stpipe.evaluation.labels import binary_labels, refuse_constant
from stpipe.evaluation.metrics import Cuts, average_precision, best_accuracy, best_average_precision, best_f1
from stpipe.evaluation.pairs import Sides, leading
from stpipe.evaluation.significance import RowMetric
from stpipe.evaluation.sparsity import width_metrics, width_values
from stpipe.ops.similarity import SimilarityName

DISTANCES = ("euclidean", "manhattan")


@EVALUATORS.register("binary_classification", aliases=("BinaryClassificationEvaluator", "SparseBinaryClassificationEvaluator"))
@dataclass(frozen=True, kw_only=True)
class BinaryClassificationEvaluator(EmbeddingEvaluator):
    """Average precision, and accuracy, F1, precision, recall and Matthews correlation at the best threshold.

    Thresholds are chosen on the evaluated rows themselves: one for accuracy, one for F1, whose precision, recall and
    Matthews correlation are reported. For Euclidean and Manhattan they are distances (at most), else similarities (at least). Both
    texts go through `encode`. With several similarity functions `max_...` is the greatest value of each metric.
    """

    formats: ClassVar[tuple[str, ...]] = ("pair-class", "pair-score")
    metrics = metric_facts(
        metric("{similarity}_ap"),
        metric("{similarity}_accuracy"),
        metric("{similarity}_accuracy_threshold", better=None),
        metric("{similarity}_f1"),
        metric("{similarity}_f1_threshold", better=None),
        metric("{similarity}_precision"),
        metric("{similarity}_recall"),
        metric("{similarity}_mcc"),
        *width_metrics(),
        maximum=True,
    )

    positive_labels: tuple[str, ...] | None = option(
        None, help="Labels of pairs that belong together, such as [entailment]; all others do not. None expects labels 0 and 1."
    )
    similarities: tuple[SimilarityName, ...] | None = option(None, help="Similarity functions to compare; None is the model's own.")
    main_similarity: SimilarityName | None = option(None, help="The one of the primary metric; None is the best of several.")

    def __call__(self, model: EmbeddingModel, rows: Rows, *, batch_size: int) -> Evaluation:
        self.check(rows)
        labels = binary_labels(rows, self.positive_labels)
        refuse_constant(labels, rows, "binary_classification")
        sides = Sides.alike(model, rows, self.options(batch_size))
        functions = similarity_names(self._values(), similarity=model.similarity_fn_name)
        scores = {name: values.astype("float32") for name, values in sides.similarities(functions, "anchor", "positive").items()}
        by_function = {name: self._metrics(labels, scores[name], name) for name in functions}
        found = {f"{name}_{key}": value for name, values in by_function.items() for key, value in values.items()}
        if len(functions) > 1:
            found |= {f"{MAX}_{key}": max(values[key] for values in by_function.values()) for key in by_function[functions[0]]}
        found |= width_values(sides.postings())
        lead, deciding = leading(functions, self.main_similarity)
        return Evaluation(
            found,
            self.primary(similarity=model.similarity_fn_name),
            evaluator=self._name(),
            num_rows=len(rows),
            details={"scores": score_histogram({"belong together": scores[lead][labels], "others": scores[lead][~labels]}, of=lead)},
            resample=RowMetric(best_average_precision, (labels, *(scores[name] for name in deciding))),
        )

    @staticmethod
    def _metrics(labels: NDArray[np.bool_], scores: NDArray[np.float32], similarity: str) -> dict[str, float]:
        cuts = Cuts.of(labels, scores)
        accuracy, accuracy_threshold = best_accuracy(cuts)
        f1 = best_f1(cuts)
        sign = -1.0 if similarity in DISTANCES else 1.0
        return {
            "ap": average_precision(cuts),
            "accuracy": accuracy,
            "accuracy_threshold": sign * accuracy_threshold,
            "f1": f1.f1,
            "f1_threshold": sign * f1.threshold,
            "precision": f1.precision,
            "recall": f1.recall,
            "mcc": f1.mcc,
        }
