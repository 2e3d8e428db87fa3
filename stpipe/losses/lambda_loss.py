"""Losses over the pairs of a list that the labels order: RankNet, and LambdaLoss, which weighs them by what they do to NDCG."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stpipe.config.errors import ConfigError
from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.config.suggest import unknown_name
from stpipe.core.context import StepContext
from stpipe.core.result import LossOutput
from stpipe.core.scores import ScoreBatch
from stpipe.losses import citations
from stpipe.losses.score_loss import LIST_FORMATS, ScoreLoss, mean_of
from stpipe.ops import lists

Weighting = Literal[
    "none",
    "ndcg1",
    "ndcg2",
    "lambda_rank",
    "ndcg2pp",
    "NoWeightingScheme",
    "NDCGLoss1Scheme",
    "NDCGLoss2Scheme",
    "LambdaRankScheme",
    "NDCGLoss2PPScheme",
]

# --- weights of the pairs: (gain (B, K), discount (K,) by rank, mu) -> (B, K, K), candidates in the model's order ----------------


def even_weights(gain: Tensor, discount: Tensor, mu: float) -> Tensor:
    """w_ij = 1."""
    return torch.ones_like(lists.differences(gain))


def ndcg1_weights(gain: Tensor, discount: Tensor, mu: float) -> Tensor:
    """w_ij = G_i / D_i."""
    return (gain / discount)[:, :, None].expand(-1, -1, gain.shape[1])


def ndcg2_weights(gain: Tensor, discount: Tensor, mu: float) -> Tensor:
    """w_ij = |1 / D_|i-j| - 1 / D_(|i-j|+1)| |G_i - G_j|, 0 for i = j."""
    inverse = 1 / discount
    steps = F.pad((inverse[:-1] - inverse[1:]).abs(), (1, 0))  # by |i - j|; the first is that of i = j
    rank = torch.arange(gain.shape[1], device=gain.device)
    return steps[(rank[:, None] - rank[None, :]).abs()] * lists.differences(gain).abs()


def lambda_rank_weights(gain: Tensor, discount: Tensor, mu: float) -> Tensor:
    """w_ij = |1 / D_i - 1 / D_j| |G_i - G_j|: what swapping the two changes in NDCG."""
    inverse = 1 / discount
    return (inverse[:, None] - inverse[None, :]).abs() * lists.differences(gain).abs()


def ndcg2pp_weights(gain: Tensor, discount: Tensor, mu: float) -> Tensor:
    """w_ij = mu times that of ndcg2, plus that of lambda_rank."""
    return mu * ndcg2_weights(gain, discount, mu) + lambda_rank_weights(gain, discount, mu)


#: Short name and documented name of a weighting -> its weights.
WEIGHTS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "none": even_weights,
    "ndcg1": ndcg1_weights,
    "ndcg2": ndcg2_weights,
    "lambda_rank": lambda_rank_weights,
    "ndcg2pp": ndcg2pp_weights,
    "NoWeightingScheme": even_weights,
    "NDCGLoss1Scheme": ndcg1_weights,
    "NDCGLoss2Scheme": ndcg2_weights,
    "LambdaRankScheme": lambda_rank_weights,
    "NDCGLoss2PPScheme": ndcg2pp_weights,
}


@dataclass(frozen=True)
class OrderedPairsLoss(ScoreLoss):
    """Logistic loss of the pairs of a list, in the order that the model gives it."""

    counts: ClassVar[str] = "pairs"
    formats: ClassVar[tuple[str, ...]] = LIST_FORMATS

    k: int | None = option(None, ge=1, help="Pairs count in which at least one document is among the k best of the model; None: all.")
    sigma: float = option(1.0, gt=0, help="Factor of the difference of two scores; larger is nearer to a count of wrong pairs.")
    reduction_log: Literal["binary", "natural"] = option("binary", help="Base of the logarithm, 2 or e: a factor of the loss.")

    def __call__(self, batch: ScoreBatch, ctx: StepContext) -> LossOutput:
        score, grades = self.scores(batch), self.grades(batch)
        order = lists.best_first(score, grades, batch.mask)
        score, grades, mask = (x.gather(1, order) for x in (score, grades, batch.mask))
        top = torch.arange(mask.shape[1], device=mask.device) < (mask.shape[1] if self.k is None else self.k)
        keep = lists.pairs(mask) & (top[:, None] | top[None, :]) & self.compared(grades)
        loss = -F.logsigmoid(self.sigma * lists.differences(score)) / (math.log(2) if self.reduction_log == "binary" else 1)
        return mean_of(self.weights(grades, mask) * loss, keep)

    def compared(self, grades: Tensor) -> Tensor:
        """(B, K, K) bool: the pairs whose first should stand before the second."""
        return lists.differences(grades) > 0

    @abstractmethod
    def weights(self, grades: Tensor, mask: Tensor) -> Tensor:
        """(B, K, K) weight of each pair; grades and mask are in the model's order."""


@LOSSES.register("ranknet", aliases=("RankNetLoss",))
@dataclass(frozen=True)
class RankNetLoss(OrderedPairsLoss):
    """Of two documents of one query, the one with the greater label should have the greater score.

        L = mean over queries and pairs y_i > y_j of -log_b sigmoid(sigma (z_i - z_j)),   b = 2, or e for reduction_log natural

    The mean is over all pairs of the batch, so long lists weigh more. A batch without such a pair costs nothing.
    Source: Burges et al. 2005, doi:10.1145/1102351.1102363, the cross-entropy of pairs with target probability 1.
    Shapes: logits (B, K, 1); scores (B, K), or none: the positive is before its negatives. Coupling: row.
    """

    citation: ClassVar[str] = citations.RANKNET

    def weights(self, grades: Tensor, mask: Tensor) -> Tensor:
        return even_weights(grades, grades, 0.0)


@LOSSES.register("lambda", aliases=("LambdaLoss",))
@dataclass(frozen=True)
class LambdaLoss(OrderedPairsLoss):
    """RankNet's pairs, each weighed by what it does to NDCG: usually the best of the losses on lists.

        L = mean over queries and pairs y_i > y_j of -w_ij log_b sigmoid(sigma (z_i - z_j))
        G_i = (2^y_i - 1) / maxDCG@k,   D_r = log2(1 + r),   r_i the rank that the model gives document i
        ndcg2:        w_ij = |1 / D_|r_i-r_j| - 1 / D_(|r_i-r_j|+1)| |G_i - G_j|
        lambda_rank:  w_ij = |1 / D_r_i - 1 / D_r_j| |G_i - G_j|
        ndcg2pp:      w_ij = mu (ndcg2) + (lambda_rank)
        ndcg1:        w_ij = G_i / D_r_i, over all i, j;  none: w_ij = 1

    The weights have no gradient. The mean is over all pairs of the batch, so long lists weigh more; a batch without a pair costs nothing.
    Equal scores: the document with the lesser label has the better rank. Labels are grades from 0 on; below 0 gains as much as 0.
    Source: Wang et al. 2018, doi:10.1145/3269206.3271784 (NDCG-Loss1, NDCG-Loss2, NDCG-Loss2++); LambdaRank: Burges, Ragno and Le 2006.
    Shapes: logits (B, K, 1); scores (B, K), or none: 1 for the positive, 0 for negatives. Coupling: row.
    """

    citation: ClassVar[str] = citations.LAMBDA

    weighting: Weighting = option("ndcg2pp", help="Weight of each pair (the documentation's scheme names will do); none is ranknet.")
    mu: float = option(10.0, ge=0, help="Share of ndcg2 in ndcg2pp, which adds lambda_rank once.")
    eps: float = option(1e-10, gt=0, help="Least maxDCG that gains are divided by: for queries without a relevant document.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighting not in WEIGHTS:
            raise ConfigError(unknown_name("weighting", self.weighting, list(WEIGHTS)))

    def compared(self, grades: Tensor) -> Tensor:
        if WEIGHTS[self.weighting] is ndcg1_weights:
            return torch.ones_like(lists.differences(grades), dtype=torch.bool)
        return super().compared(grades)

    def weights(self, grades: Tensor, mask: Tensor) -> Tensor:
        gain = lists.gains(grades, mask, k=self.k, eps=self.eps)
        return WEIGHTS[self.weighting](gain, lists.discounts(gain.shape[1], gain), self.mu)
