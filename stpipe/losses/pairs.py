"""Losses on one pair of texts at a time (and one that picks the hard pairs of a batch)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses import base, citations
from stpipe.losses.base import Loss
from stpipe.ops.reduce import masked_max, masked_mean, masked_min, masked_sum
from stpipe.ops.similarity import SIMILARITIES, MetricName, cosine_paired

REGRESSIONS: dict[str, Callable[..., Tensor]] = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": F.huber_loss,
    "bce": F.binary_cross_entropy_with_logits,
}
TRANSFORMATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "rescale": lambda x: (1 + x) / 2,
}


@LOSSES.register("cosine_similarity", aliases=("CosineSimilarityLoss", "SparseCosineSimilarityLoss"))
@dataclass(frozen=True)
class CosineSimilarityLoss(Loss):
    """Regression of the cosine on the score.

        L_i = f(g(cos(a_i, p_i)), y_i),   f = loss_fct, g = cos_score_transformation

    mse (x - y)^2; mae |x - y|; huber (x - y)^2 / 2 below |x - y| = 1, else |x - y| - 1/2; bce -y log sigmoid(x) - (1 - y)
    log(1 - sigmoid(x)). `cosent`, which needs the order of the scores only, usually gives better models.
    Source: arXiv:1908.10084 section 3, "Regression Objective Function".
    Shapes: anchor, positive (B, D); score (B,). Coupling: row.
    """

    coupling: ClassVar[str] = "row"
    formats: ClassVar[tuple[str, ...]] = ("pair-score",)
    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse")
    label_range: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)
    citation: ClassVar[str] = citations.SENTENCE_BERT

    loss_fct: Literal["mse", "mae", "huber", "bce"] = option(
        "mse", help="Function of cosine and score; huber (threshold 1) and mae bear outliers."
    )
    cos_score_transformation: Literal["identity", "relu", "sigmoid", "rescale"] = option(
        "identity", help="Map from the cosine to the range of the scores; rescale is (1 + x) / 2, which maps [-1, 1] to [0, 1]."
    )

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        cosine = cosine_paired(batch.local("anchor"), batch.local("positive"))
        target = base.scores(batch, loss="cosine_similarity").to(cosine.dtype)
        x = TRANSFORMATIONS[self.cos_score_transformation](cosine)
        return LossOutput.per_row(REGRESSIONS[self.loss_fct](x, target, reduction="none"))


@LOSSES.register("contrastive", aliases=("ContrastiveLoss",))
@dataclass(frozen=True)
class ContrastiveLoss(Loss):
    """Pairs of label 1 are pulled together, pairs of label 0 pushed apart up to a margin.

        L_i = 1/2 (y_i d_i^2 + (1 - y_i) max(0, margin - d_i)^2),   d_i = distance(a_i, p_i)

    A label between 0 and 1 weighs both parts. Source: Hadsell et al. 2006 (doi:10.1109/CVPR.2006.100) eq. 4, where Y = 1 - y.
    Shapes: anchor, positive (B, D); label (B,). Coupling: row.
    """

    coupling: ClassVar[str] = "row"
    formats: ClassVar[tuple[str, ...]] = ("pair-class", "pair-score")
    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse")
    label_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    citation: ClassVar[str] = citations.CONTRASTIVE

    margin: float = option(0.5, gt=0, help="Distance from which on a negative pair costs nothing; 0.5 suits cosine distance.")
    metric: MetricName = option("cosine", help="Distance: 1 - cosine, Euclidean or Manhattan.")

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        distance = SIMILARITIES[self.metric].distance_paired(batch.local("anchor"), batch.local("positive"))
        target = base.scores(batch, loss="contrastive")
        return LossOutput.per_row(0.5 * (target * distance.square() + (1 - target) * (self.margin - distance).relu().square()))


@LOSSES.register("online_contrastive", aliases=("OnlineContrastiveLoss",))
@dataclass(frozen=True)
class OnlineContrastiveLoss(Loss):
    """Contrastive loss over the hard pairs of the batch only, as a sum.

        L = sum of d_i^2 over positive pairs with d_i > min d of negative pairs
          + sum of max(0, margin - d_i)^2 over negative pairs with d_i < max d of positive pairs

    When the batch has no pair of the other label, the mean distance of the own label takes its place. Pairs with another
    label than 0 and 1 are left out. Source: none published; the definition is that of the sentence-transformers documentation.
    Shapes: anchor, positive (B, D); label (B,). Coupling: batch (the rows of all processes).
    """

    coupling: ClassVar[str] = "batch"
    formats: ClassVar[tuple[str, ...]] = ("pair-class", "pair-score")
    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse")
    label_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    citation: ClassVar[str] = citations.CONTRASTIVE

    margin: float = option(0.5, gt=0, help="Distance from which on a negative pair costs nothing; 0.5 suits cosine distance.")
    metric: MetricName = option("cosine", help="Distance: 1 - cosine, Euclidean or Manhattan.")

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        distance = SIMILARITIES[self.metric].distance_paired(batch.local("anchor"), batch.local("positive"))
        target = base.scores(batch, loss="online_contrastive")
        is_positive, is_negative = target == 1, target == 0
        fixed = distance.detach()
        nearest_negative = torch.where(is_negative.any(), masked_min(fixed, is_negative), masked_mean(fixed, is_positive))
        farthest_positive = torch.where(is_positive.any(), masked_max(fixed, is_positive), masked_mean(fixed, is_negative))
        pull = masked_sum(distance.square(), is_positive & (fixed > nearest_negative))
        push = masked_sum((self.margin - distance).relu().square(), is_negative & (fixed < farthest_positive))
        return LossOutput.whole(pull + push)
