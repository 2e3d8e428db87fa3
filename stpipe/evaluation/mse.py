"""How near are a student's embeddings to those of its teacher?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stpipe.config.errors import DataError
from stpipe.config.formats import text_roles
from stpipe.config.metrics import metric, metric_facts
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation.base import EmbeddingEvaluator, Evaluation
from stpipe.evaluation.encoding import EmbeddingModel
from stpipe.evaluation.labels import raw_labels
from stpipe.evaluation.pairs import Sides, row_scores
from stpipe.evaluation.spaces import Space
from stpipe.evaluation.sparsity import width_metrics, width_values

BLOCK = 4_000_000  # numbers of a dense copy


@EVALUATORS.register("mse", aliases=("MSEEvaluator", "SparseMSEEvaluator"))
@dataclass(frozen=True, kw_only=True)
class MSEEvaluator(EmbeddingEvaluator):
    """Negative mean squared difference, times 100, between the embedding of each text and the teacher's vector of its row.

    Negative so that greater is better, as in the documentation. Of a pair (a translation, say) both texts should match
    the one vector, and both count. Texts go through `encode`.
    """

    formats: ClassVar[tuple[str, ...]] = ("text-vector", "pair-vector")
    metrics = metric_facts(metric("negative_mse"), *width_metrics())

    def __call__(self, model: EmbeddingModel, rows: Rows, *, batch_size: int) -> Evaluation:
        self.check(rows)
        roles = text_roles(rows.columns)
        sides = Sides.alike(model, rows, self.options(batch_size), roles)
        labels = self._labels(rows, sides.values[roles[0]].shape[1])
        error = -100 * np.mean([squared_errors(sides.space, sides.values[role], labels) for role in roles], axis=0)
        return Evaluation(
            {"negative_mse": float(error.mean()), **width_values(sides.postings())},
            "negative_mse",
            evaluator=self._name(),
            num_rows=len(rows),
            per_query=row_scores("negative_mse", rows.columns["anchor"], error),
            query_metric="negative_mse",
        )

    @staticmethod
    def _labels(rows: Rows, width: int) -> Sequence[Any]:
        """The teacher's vector of each row, each of this width."""
        labels = raw_labels(rows)
        bad = next((i for i, vector in enumerate(labels) if len(vector) != width), None)
        if bad is not None:
            raise DataError(
                f"mse: row {bad} of data set '{rows.name}' has a vector of {len(labels[bad])} numbers, but the model's embeddings have {width}; "
                "use the teacher that the rows were made with, or set truncate_dim"
            )
        return labels


def squared_errors(space: Space[Any], values: Any, wanted: Sequence[Any]) -> NDArray[np.float64]:
    """(N,) mean squared difference of each row and its vector. Dense copies are made of a block of rows at a time."""
    step = max(1, BLOCK // values.shape[1])
    blocks = [slice(start, start + step) for start in range(0, values.shape[0], step)]
    return np.concatenate([((space.dense_rows(space.take(values, rows)) - np.array(wanted[rows])) ** 2).mean(axis=1) for rows in blocks])
