"""Is the positive nearer than the negative?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stpipe.config.errors import ConfigError
from stpipe.config.fields import option
from stpipe.config.formats import negative_roles
from stpipe.config.metrics import MAX, metric, metric_facts, similarity_names
from stpipe.config.registry import EVALUATORS
from stpipe.config.suggest import unknown_name
from stpipe.core.rows import Rows
from stpipe.evaluation.base import EmbeddingEvaluator, Evaluation
from stpipe.evaluation.details import score_histogram
from stpipe.evaluation.encoding import EmbeddingModel
from stpipe.evaluation.pairs import Sides, row_scores
from stpipe.evaluation.sparsity import width_metrics, width_values
from stpipe.ops.similarity import SIMILARITIES, SimilarityName


@EVALUATORS.register("triplet", aliases=("TripletEvaluator", "SparseTripletEvaluator"))
@dataclass(frozen=True, kw_only=True)
class TripletEvaluator(EmbeddingEvaluator):
    """Share of (anchor, positive, negative) with similarity(anchor, positive) > similarity(anchor, negative) + margin.

    A row with several negatives counts as the share of them that are told apart. Anchors go through `encode_query`, the
    others through `encode_document`. With several similarity functions `max_accuracy` is the best of them.
    """

    formats: ClassVar[tuple[str, ...]] = ("triplet", "n-tuple", "triplet-score", "n-tuple-scores")
    metrics = metric_facts(
        metric("{similarity}_accuracy"),
        *width_metrics("anchor_"),
        *width_metrics("positive_"),
        *width_metrics("negative_"),
        maximum=True,
    )

    margin: float = option(0.0, help="By how much the positive must be more similar, in units of the similarity function.")
    margins: Mapping[str, float] = option(help="Similarity function -> margin, where it differs from `margin`.", factory=dict)
    similarities: tuple[SimilarityName, ...] | None = option(None, help="Similarity functions to compare; None is the model's own.")
    main_similarity: SimilarityName | None = option(None, help="The one of the primary metric; None is the best of several.")

    def __post_init__(self) -> None:
        for name in self.margins:
            if name not in SIMILARITIES:
                raise ConfigError(f"triplet: margins: {unknown_name('similarity function', name, SIMILARITIES)}")

    def __call__(self, model: EmbeddingModel, rows: Rows, *, batch_size: int) -> Evaluation:
        self.check(rows)
        negatives = negative_roles(rows.columns)
        encoders = {"anchor": model.encode_query, **dict.fromkeys(("positive", *negatives), model.encode_document)}
        sides = Sides.encode(model, rows, encoders, self.options(batch_size))
        functions = similarity_names(self._values(), similarity=model.similarity_fn_name)
        near = sides.similarities(functions, "anchor", "positive")
        far = [sides.similarities(functions, "anchor", negative) for negative in negatives]
        right = {
            # float32 on both sides, so that a negative equal to the positive is never ahead by a rounding error
            name: np.mean([near[name].astype("float32") > f[name].astype("float32") + self._margin(name) for f in far], axis=0)
            for name in functions
        }
        found = {f"{name}_accuracy": float(values.mean()) for name, values in right.items()}
        lead: str = self.main_similarity or max(functions, key=lambda name: found[f"{name}_accuracy"])
        if len(functions) > 1:
            found[f"{MAX}_accuracy"] = max(found.values())
        for side, roles in (("anchor", ("anchor",)), ("positive", ("positive",)), ("negative", negatives)):
            found |= width_values(sides.postings(*roles), f"{side}_")
        return Evaluation(
            found,
            self.primary(similarity=model.similarity_fn_name),
            evaluator=self._name(),
            num_rows=len(rows),
            per_query=row_scores("accuracy", rows.columns["anchor"], right[lead]),
            query_metric="accuracy",
            details={"scores": score_histogram({"positives": near[lead], "negatives": np.concatenate([f[lead] for f in far])}, of=lead)},
        )

    def _margin(self, similarity: str) -> np.float32:
        return np.float32(self.margins.get(similarity, self.margin))
