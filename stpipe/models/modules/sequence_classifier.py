"""A backbone with its classification head: scores of pairs of texts."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from stpipe.models.modules.head import logits_of
from stpipe.models.modules.headed import HeadedTransformer
from stpipe.models.modules.module import Features


class SequenceClassifier(HeadedTransformer):
    """A transformers model with a classification head ("sequence-classification"): any architecture of
    AutoModelForSequenceClassification.

    Adds `scores` (N, C), the logits.
    """

    task: ClassVar[str] = "sequence-classification"
    module_output_name: ClassVar[str] = "scores"
    picks: ClassVar[tuple[str, ...]] = ("first token", "last token", "mean")

    fresh: tuple[str, ...] = ()
    """Names of the weights of the head that were drawn anew, because the checkpoint had none that fit."""

    @property
    def feature(self) -> str:
        return "scores"

    def forward(self, features: Features) -> dict[str, Any]:
        if self.pick is None:
            return {**features, "scores": self.whole(features)}
        out = super().forward(features)
        return {**out, "scores": logits_of(self.model, out["picked"])}

    def of_text(self, logits: Tensor, lengths: Tensor) -> Tensor:
        return logits

    def output_dim(self, input_dim: int = 0) -> int:
        """Number of scores."""
        return int(self.model.config.num_labels)
