"""The positive of each query against its own and sampled negatives, for cross-encoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.result import LossOutput
from stpipe.core.scores import ALL_NEGATIVES, ScoreBatch
from stpipe.losses import citations
from stpipe.losses.score_loss import ScoreLoss
from stpipe.ops.activations import ActivationName


@LOSSES.register("reranker_mnrl")
@dataclass(frozen=True)
class RerankerMultipleNegativesRankingLoss(ScoreLoss):
    """Softmax that must pick the positive among the candidates of its row: hard negatives, and negatives sampled from the batch.

        L_i = -t z_i1 + log sum over candidates j of exp(t z_ij),   z after the activation, t = scale

    The first candidate is the positive; the order of the others does not matter. Sampling belongs to the making of pairs: the loss only
    says how many. Source: arXiv:1807.03748 eq. 4 (InfoNCE); in-batch negatives arXiv:1705.00652 section 4.4.
    Shapes: logits (B, K, 1). Coupling: row.
    """

    formats: ClassVar[tuple[str, ...]] = ("pair", "triplet", "n-tuple")
    citation: ClassVar[str] = citations.INFO_NCE

    activation: ActivationName = option("Sigmoid", help="Applied to the model's logits first: a torch.nn class, with its defaults.")
    num_negatives: int | None = option(
        4, ge=0, help="Negatives that each query gets from other rows of the batch; None: all of them. Each costs one forward of a pair."
    )
    scale: float = option(10.0, gt=0, help="Factor of the activated score before the softmax, 1 / temperature.")

    def sampled_negatives(self) -> int:
        return ALL_NEGATIVES if self.num_negatives is None else self.num_negatives

    def __call__(self, batch: ScoreBatch, ctx: StepContext) -> LossOutput:
        logit = (self.scale * self.scores(batch)).masked_fill(~batch.mask, -torch.inf)
        return LossOutput.per_row(torch.logsumexp(logit, dim=1) - logit[:, 0])
