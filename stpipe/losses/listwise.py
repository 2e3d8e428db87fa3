"""Losses of cross-encoders over a whole list of documents: ListNet, ListMLE, p-ListMLE, ADR-MSE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.result import LossOutput
from stpipe.core.scores import ScoreBatch
from stpipe.losses import citations
from stpipe.losses.score_loss import LIST_FORMATS, ScoreLoss, mean_of
from stpipe.ops import lists


@LOSSES.register("listnet", aliases=("ListNetLoss",))
@dataclass(frozen=True)
class ListNetLoss(ScoreLoss):
    """Cross entropy of the distribution that the scores make from the one that the labels make.

        L_i = -sum over documents j of q_ij log p_ij,   p_i = softmax of z_i,   q_i = softmax of y_i

    Labels count by their differences: binary ones give q a ratio of e between relevant and not, logits of a teacher a sharper one. Equal
    labels ask for equal scores. Source: Cao et al. 2007, doi:10.1145/1273496.1273513 (top-one probabilities).
    Shapes: logits (B, K, 1); scores (B, K), or none: 1 for the positive, 0 for negatives. Coupling: row.
    """

    formats: ClassVar[tuple[str, ...]] = LIST_FORMATS
    citation: ClassVar[str] = citations.LISTNET

    def __call__(self, batch: ScoreBatch, ctx: StepContext) -> LossOutput:
        padding = ~batch.mask
        log_p = torch.log_softmax(self.scores(batch).masked_fill(padding, -torch.inf), dim=1).masked_fill(padding, 0)
        q = torch.softmax(self.grades(batch).masked_fill(padding, -torch.inf), dim=1)
        return LossOutput.per_row(-(q * log_p).sum(1))


#: Weight of each rank in p-ListMLE by name, the documented one included: (mask, a tensor of the dtype) -> (B, K) shares.
RANK_WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "halving": lists.halving_weights,
    "logarithmic": lists.logarithmic_weights,
    "PListMLELambdaWeight": lists.halving_weights,
}


@dataclass(frozen=True)
class OrderLikelihoodLoss(ScoreLoss):
    """Negative log likelihood of one order of the documents, the better pick first."""

    formats: ClassVar[tuple[str, ...]] = LIST_FORMATS

    respect_input_order: bool = option(
        True, help="The data lists documents best first: that order is learned, whatever the labels. False: the order of the labels."
    )

    def __call__(self, batch: ScoreBatch, ctx: StepContext) -> LossOutput:
        score, grades, mask = self.scores(batch), self.grades(batch), batch.mask
        if not self.respect_input_order:
            score = score.gather(1, lists.grades_first(grades, mask))
        loss = LossOutput.per_row(-(self.rank_weights(mask, score) * lists.log_picks(score, mask)).sum(1))
        # The order of the data is taken on trust, so the log says how far the labels bear it out.
        metrics = {"unordered_lists": unordered(grades, mask).float().mean()} if self.respect_input_order else {}
        return LossOutput(loss.sum, loss.count, metrics=metrics)

    def rank_weights(self, mask: Tensor, like: Tensor) -> Tensor:
        """(B, K) weight of the pick at each rank."""
        return torch.ones_like(like)


def unordered(grades: Tensor, mask: Tensor) -> Tensor:
    """(B,) bool: somewhere in the row a greater label follows a lesser one."""
    return ((grades[:, 1:] > grades[:, :-1]) & mask[:, 1:]).any(1)


@LOSSES.register("listmle", aliases=("ListMLELoss",))
@dataclass(frozen=True)
class ListMLELoss(OrderLikelihoodLoss):
    """Likelihood of the right order, if one document after the other is picked with a softmax over those that are left.

        L_i = -sum over ranks r of (z_ir - log sum over r' >= r of exp(z_ir'))

    The right order is that of the data, or with respect_input_order false that of the labels, in which equal labels keep the order of the
    data. Metric unordered_lists: share of the lists whose labels contradict the order of the data; it should be 0.
    Source: Xia et al. 2008, doi:10.1145/1390156.1390306 (likelihood loss). Shapes: logits (B, K, 1); scores (B, K), or none: 1 for the
    positive, 0 for negatives. Coupling: row.
    """

    citation: ClassVar[str] = citations.LISTMLE


@LOSSES.register("plistmle", aliases=("PListMLELoss",))
@dataclass(frozen=True)
class PListMLELoss(OrderLikelihoodLoss):
    """`listmle` in which the first picks weigh more.

        L_i = -sum over ranks r of w_r (z_ir - log sum over r' >= r of exp(z_ir')),   w_r = (2^(n-r) - 1) / sum over r' of (2^(n-r') - 1)

    n: documents of the list. logarithmic: w_r = (1 / log(1 + r)) over the sum of the same. The order, ties and the metric are those of
    `listmle`. Source: Lan et al. 2014, Position-Aware ListMLE (UAI 2014), with its weight 2^(n-r) - 1.
    Shapes: logits (B, K, 1); scores (B, K), or none: 1 for the positive, 0 for negatives. Coupling: row.
    """

    citation: ClassVar[str] = citations.PLISTMLE

    lambda_weight: Literal["halving", "logarithmic", "PListMLELambdaWeight"] | None = option(
        "halving", help="Weight of rank r: halving 2^(n - r) - 1 (also PListMLELambdaWeight), logarithmic 1 / log(1 + r), None 1 (ListMLE)."
    )

    def rank_weights(self, mask: Tensor, like: Tensor) -> Tensor:
        return super().rank_weights(mask, like) if self.lambda_weight is None else RANK_WEIGHTS[self.lambda_weight](mask, like)


@LOSSES.register("adr_mse", aliases=("ADRMSELoss",))
@dataclass(frozen=True)
class ADRMSELoss(ScoreLoss):
    """Squared difference of the rank that the labels give a document from a smooth one that the scores give it; the top counts most.

        L_ij = (r_ij - h_ij)^2 / log2(1 + r_ij),   h_ij = 1 + sum over other documents l of sigmoid(alpha (z_il - z_ij))

    r: rank by label, equal labels share the mean of their ranks. Averaged over documents, so long lists weigh more.
    Source: arXiv:2405.07920 (ADR-MSE). Shapes: logits (B, K, 1); scores (B, K), or none: 1 for the positive, 0 for negatives. Coupling: row.
    """

    counts: ClassVar[str] = "candidates"
    formats: ClassVar[tuple[str, ...]] = LIST_FORMATS
    citation: ClassVar[str] = citations.RANK_DISTILLM

    alpha: float = option(1.0, gt=0, help="Sharpness of the smooth rank: larger is nearer to the rank, with less gradient from far pairs.")

    def __call__(self, batch: ScoreBatch, ctx: StepContext) -> LossOutput:
        score = self.scores(batch)
        rank = lists.mean_ranks(self.grades(batch), batch.mask).to(score.dtype)
        error = rank - lists.soft_ranks(score, batch.mask, alpha=self.alpha)
        return mean_of(error.square() / torch.log2(1 + rank), batch.mask)
