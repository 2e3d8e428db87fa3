"""How near are a student's embeddings to those of its teacher?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stpipe.config.errors import DataError
from stpipe.config.fields import option
from stpipe.config.formats import text_roles
from stpipe.config.metrics import metric, metric_facts
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation.base import Evaluation, Evaluator
from stpipe.evaluation.collection import text_id
from stpipe.evaluation.encoding import EmbeddingModel
from stpipe.evaluation.labels import raw_labels
from stpipe.evaluation.pairs import Side


@EVALUATORS.register("mse", aliases=("MSEEvaluator",))
@dataclass(frozen=True, kw_only=True)
class MSEEvaluator(Evaluator):
    """Negative mean squared difference, times 100, between the embedding of each text and the teacher's vector of its row.

    Negative so that greater is better, as in the documentation. Of a pair (a translation, say) both texts should match
    the one vector, and both count. Texts go through `encode`.
    """

    formats: ClassVar[tuple[str, ...]] = ("text-vector", "pair-vector")
    metrics = metric_facts(metric("negative_mse"))

    truncate_dim: int | None = option(None, ge=1, help="Keep so many dimensions of the embeddings; None is the model's setting.")

    def __call__(self, model: EmbeddingModel, rows: Rows, *, batch_size: int) -> Evaluation:
        self.check(rows)
        roles = text_roles(rows.columns)
        values = [Side(rows, role, model.encode).embeddings(batch_size=batch_size, truncate_dim=self.truncate_dim) for role in roles]
        width = values[0].shape[1]
        wanted = self._vectors(rows, width)
        squared = np.mean([(value.cpu().numpy() - wanted) ** 2 for value in values], axis=(0, 2))
        error = -100 * squared
        return Evaluation(
            {"negative_mse": float(error.mean())},
            "negative_mse",
            evaluator=self._name(),
            num_rows=len(rows),
            per_query=[
                {"query_id": f"{text_id('q', text)}-{i}", "query": text, "negative_mse": float(error[i])}
                for i, text in enumerate(rows.columns["anchor"])
            ],
            query_metric="negative_mse",
        )

    @staticmethod
    def _vectors(rows: Rows, width: int) -> np.ndarray:
        """(N, D) the teacher's vectors."""
        labels = raw_labels(rows)
        bad = next((i for i, vector in enumerate(labels) if len(vector) != width), None)
        if bad is not None:
            raise DataError(
                f"mse: row {bad} of data set '{rows.name}' has a vector of {len(labels[bad])} numbers, but the model's embeddings have {width}; "
                "use the teacher that the rows were made with, or set truncate_dim"
            )
        return np.array(labels, dtype=np.float64)
