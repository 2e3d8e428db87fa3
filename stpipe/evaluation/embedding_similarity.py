"""Does similarity follow the scores that people gave? (STS)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stpipe.config.fields import option
from stpipe.config.metrics import MAX, metric, metric_facts, similarity_names
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation.base import EmbeddingEvaluator, Evaluation
from stpipe.evaluation.details import score_histogram, scores_by_label
from stpipe.evaluation.encoding import EmbeddingModel
from stpipe.evaluation.labels import refuse_constant, score_labels
from stpipe.evaluation.metrics import best_spearman, pearson, spearman
from stpipe.evaluation.pairs import Sides, leading
from stpipe.evaluation.significance import RowMetric
from stpipe.evaluation.sparsity import width_metrics, width_values
from stpipe.ops.similarity import SimilarityName


@EVALUATORS.register("embedding_similarity", aliases=("EmbeddingSimilarityEvaluator", "SparseEmbeddingSimilarityEvaluator"))
@dataclass(frozen=True, kw_only=True)
class EmbeddingSimilarityEvaluator(EmbeddingEvaluator):
    """Spearman and Pearson correlation between the similarity of each pair and its label.

    Both texts go through `encode`. With several similarity functions `spearman_max` and `pearson_max` are the best of
    them. A correlation is NaN when the model gives every pair the same similarity.
    """

    formats: ClassVar[tuple[str, ...]] = ("pair-score",)
    metrics = metric_facts(metric("spearman_{similarity}"), metric("pearson_{similarity}"), *width_metrics(), maximum=True)

    similarities: tuple[SimilarityName, ...] | None = option(None, help="Similarity functions to compare; None is the model's own.")
    main_similarity: SimilarityName | None = option(None, help="The one of the primary metric; None is the best of several.")

    def __call__(self, model: EmbeddingModel, rows: Rows, *, batch_size: int) -> Evaluation:
        self.check(rows)
        labels = score_labels(rows)
        refuse_constant(labels, rows, "embedding_similarity")
        sides = Sides.alike(model, rows, self.options(batch_size))
        functions = similarity_names(self._values(), similarity=model.similarity_fn_name)
        # float32, as users see similarities: noise in the last bits of float64 would rank pairs that are equal.
        shown = {name: values.astype("float32") for name, values in sides.similarities(functions, "anchor", "positive").items()}
        found: dict[str, float] = {}
        for name, values in shown.items():
            found[f"spearman_{name}"] = spearman(labels, values)
            found[f"pearson_{name}"] = pearson(labels, values)
        if len(functions) > 1:
            for metric_name in ("spearman", "pearson"):
                found[f"{metric_name}_{MAX}"] = max(found[f"{metric_name}_{name}"] for name in functions)
        found |= width_values(sides.postings())
        lead, deciding = leading(functions, self.main_similarity)
        return Evaluation(
            found,
            self.primary(similarity=model.similarity_fn_name),
            evaluator=self._name(),
            num_rows=len(rows),
            details={
                "scores": score_histogram({"pairs": shown[lead]}, of=lead),
                "by_label": scores_by_label(labels, shown[lead], of=lead),
            },
            resample=RowMetric(best_spearman, (labels, *(shown[name] for name in deciding))),
        )
