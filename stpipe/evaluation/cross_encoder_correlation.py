"""Do the scores of a cross-encoder follow the scores that people gave?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stpipe.config.metrics import metric, metric_facts
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.details import score_histogram, scores_by_label
from stpipe.evaluation.labels import refuse_constant, score_labels
from stpipe.evaluation.metrics import pearson, spearman
from stpipe.evaluation.scoring import PairEvaluator, ScoringModel, need_one_output
from stpipe.evaluation.significance import RowMetric


@EVALUATORS.register("cross_encoder_correlation", aliases=("CrossEncoderCorrelationEvaluator", "CECorrelationEvaluator"))
@dataclass(frozen=True, kw_only=True)
class CrossEncoderCorrelationEvaluator(PairEvaluator):
    """Spearman and Pearson correlation between the score of each pair and its label.

    Scores are those that `predict` gives, through the model's activation. A correlation is NaN when the model gives every
    pair the same score.
    """

    num_outputs: ClassVar[str | None] = "one"
    formats: ClassVar[tuple[str, ...]] = ("pair-score", "query-document")
    metrics = metric_facts(metric("spearman"), metric("pearson"))

    def __call__(self, model: ScoringModel, rows: Rows, *, batch_size: int) -> Evaluation:
        self.check(rows)
        need_one_output(model, self._name())
        labels = score_labels(rows)
        refuse_constant(labels, rows, self._name())
        scores = self.scores(model, rows, batch_size=batch_size)
        found = {"spearman": spearman(labels, scores), "pearson": pearson(labels, scores)}
        return Evaluation(
            found,
            "spearman",
            evaluator=self._name(),
            num_rows=len(rows),
            details={"scores": score_histogram({"pairs": scores}, of="score"), "by_label": scores_by_label(labels, scores, of="score")},
            resample=RowMetric(spearman, (labels, scores)),
        )
