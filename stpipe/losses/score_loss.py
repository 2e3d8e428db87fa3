"""What the losses of cross-encoders share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stpipe.config.fields import option
from stpipe.core.result import LossOutput
from stpipe.core.scores import ScoreBatch
from stpipe.losses.base import Loss
from stpipe.ops.activations import ActivationName, activation
from stpipe.ops.convert import upcast
from stpipe.ops.reduce import masked_sum

#: Formats whose rows are a query with several candidates; without labels the positive has grade 1 and negatives 0.
LIST_FORMATS = ("query-documents", "triplet", "n-tuple", "n-tuple-scores")


@dataclass(frozen=True)
class ScoreLoss(Loss):
    """A loss of the logits that a cross-encoder gives the candidates of each query (a ScoreBatch)."""

    coupling: ClassVar[str] = "row"
    kinds: ClassVar[tuple[str, ...]] = ("cross_encoder",)
    num_outputs: ClassVar[str | None] = "one"

    activation: ActivationName = option("Identity", help="Applied to the model's logits first: a torch.nn class, with its defaults.")

    def __post_init__(self) -> None:
        activation(self.activation)

    def scores(self, batch: ScoreBatch) -> Tensor:
        """(B, K) the score of each candidate after the activation, in at least fp32; 0 at padding."""
        return activation(self.activation)(upcast(batch.score)).masked_fill(~batch.mask, 0)

    def grades(self, batch: ScoreBatch) -> Tensor:
        """(B, K) the label of each candidate; 0 at padding."""
        return batch.grades(loss=type(self).__name__).detach().masked_fill(~batch.mask, 0)


def mean_of(values: Tensor, keep: Tensor) -> LossOutput:
    """The kept entries, averaged over all that are kept in the batch (not row by row)."""
    return LossOutput(masked_sum(values, keep), keep.sum().to(torch.float32))
