"""Does a sentence find its translation among all translations?

Shape legend: N pairs, q queries of one tile, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stpipe.config.fields import option
from stpipe.config.metrics import metric, metric_facts
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation.base import EmbeddingEvaluator, Evaluation
from stpipe.evaluation.encoding import EmbeddingModel
from stpipe.evaluation.pairs import Sides, row_scores
from stpipe.evaluation.spaces import Space
from stpipe.evaluation.sparsity import width_metrics, width_values
from stpipe.ops.similarity import SimilarityName
from stpipe.search.top_k import TopK

TILE = 16_000_000  # scores that are held at a time


@EVALUATORS.register("translation", aliases=("TranslationEvaluator", "SparseTranslationEvaluator"))
@dataclass(frozen=True, kw_only=True)
class TranslationEvaluator(EmbeddingEvaluator):
    """Share of pairs (source, translation) of which each text is nearest to the other one among the texts of the other side.

        src2trg_accuracy   for each source, is its translation the most similar of all translations?
        trg2src_accuracy   for each translation, is its source the most similar of all sources?
        mean_accuracy      the mean of both, the primary metric

    A text that occurs several times is right wherever it is found; among equal similarities the first row counts. Texts go through
    `encode`. Compares all N x N texts, in tiles; harder with more rows, so compare models on the same ones.
    """

    formats: ClassVar[tuple[str, ...]] = ("pair", "pair-vector")
    metrics = metric_facts(metric("mean_accuracy"), metric("src2trg_accuracy"), metric("trg2src_accuracy"), *width_metrics())

    similarity: SimilarityName = option("cosine", help="Similarity of two embeddings.")

    def __call__(self, model: EmbeddingModel, rows: Rows, *, batch_size: int) -> Evaluation:
        self.check(rows)
        sides = Sides.alike(model, rows, self.options(batch_size))
        found = []
        for query, other in (("anchor", "positive"), ("positive", "anchor")):
            nearest = nearest_of(sides.space, self.similarity, sides.values[query], sides.values[other])
            found.append(same_text(list(rows.columns[other]), nearest))
        forward, back = found
        mean = (forward.astype(np.float64) + back) / 2
        return Evaluation(
            {
                "mean_accuracy": float(mean.mean()),
                "src2trg_accuracy": float(forward.mean()),
                "trg2src_accuracy": float(back.mean()),
                **width_values(sides.postings()),
            },
            "mean_accuracy",
            evaluator=self._name(),
            num_rows=len(rows),
            per_query=row_scores("mean_accuracy", rows.columns["anchor"], mean),
            query_metric="mean_accuracy",
        )


def nearest_of(space: Space[Any], similarity: str, queries: Any, others: Any) -> NDArray[np.int64]:
    """(N,) number of the most similar of others (N, D) for each of queries (N, D), the lowest of equal ones; NO_DOC where none is alike."""
    count = queries.shape[0]
    ranker = space.ranker(similarity, others, np.arange(others.shape[0]))
    best = TopK(count, 1, space.device(queries))
    step = max(1, TILE // others.shape[0])
    for start in range(0, count, step):
        part = slice(start, start + step)
        best.update(part, ranker(space.take(queries, part), 1))
    return best.found()[0][:, 0]


def same_text(texts: Sequence[str], nearest: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N,) whether the text that was found reads as the one that belongs there."""
    return np.array([place >= 0 and texts[place] == text for place, text in zip(nearest.tolist(), texts, strict=True)])
