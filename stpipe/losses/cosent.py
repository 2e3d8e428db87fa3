"""Losses on the order of scores: pairs that should be more alike than others are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses import base, citations
from stpipe.losses.base import Loss
from stpipe.ops.reduce import log_one_plus_sum_exp
from stpipe.ops.similarity import SIMILARITIES, SimilarityName, angle_paired


def order_loss(similarity: Tensor, target: Tensor, *, scale: float) -> Tensor:
    """0-d log(1 + sum over i, j with y_i > y_j of exp(t (s_j - s_i))).

    Pairs are sorted by label, so that all partners of one pair with a higher label are a suffix and their sum is one
    element of a running log-sum-exp: O(n log n) time and O(n) memory instead of n^2.

    Args:
        similarity: (N,) s.
        target: (N,) y.
        scale: t.
    """
    target, order = target.sort()
    logit = similarity[order] * scale
    higher = torch.searchsorted(target, target, right=True)  # (N,) where the labels above mine begin
    suffix = torch.logcumsumexp(-logit.flip(0), dim=0).flip(0)
    suffix = torch.cat([suffix, suffix.new_full((1,), -torch.inf)])  # nothing is above the highest label
    return log_one_plus_sum_exp(logit + suffix[higher])


@LOSSES.register("cosent", aliases=("CoSENTLoss", "SparseCoSENTLoss"))
@dataclass(frozen=True)
class CoSENTLoss(Loss):
    """Order of the similarities of pairs against the order of their scores.

        L = log(1 + sum over i, j with y_i > y_j of exp(t (s_j - s_i))),   s_i = s(a_i, p_i),   t = scale

    Only the order of the scores counts; pairs with equal scores are not compared. A batch of equal scores has loss 0.
    Source: doi:10.1109/TASLP.2024.3402087 (first: J. Su, kexue.fm/archives/8847, 2022).
    Shapes: anchor, positive (B, D); score (B,). Coupling: batch (the rows of all processes; the log is taken once).
    """

    coupling: ClassVar[str] = "batch"
    formats: ClassVar[tuple[str, ...]] = ("pair-score",)
    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse")
    citation: ClassVar[str] = citations.COSENT

    scale: float = option(20.0, gt=0, help="Factor of the similarity, 1 / temperature.")
    similarity: SimilarityName = option("cosine", help="Similarity of two embeddings; the distances are negated.")

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        similarity = SIMILARITIES[self.similarity].paired(batch.local("anchor"), batch.local("positive"))
        return LossOutput.whole(order_loss(similarity, base.scores(batch, loss="cosent"), scale=self.scale))


@LOSSES.register("angle", aliases=("AnglELoss", "AngleLoss", "SparseAnglELoss", "SparseAngleLoss"))
@dataclass(frozen=True)
class AnglELoss(Loss):
    """The order loss of CoSENT on the angle similarity, whose gradient does not vanish where the cosine is near 1 or -1.

        L = log(1 + sum over i, j with y_i > y_j of exp(t (s_j - s_i))),   s = |Re z + Im z|,   z = z_a conj(z_p) / (|a| |p|)

    where the halves of an embedding are the real and imaginary parts of z_a, z_p, and z is summed over dimensions.
    Triplets and n-tuples need no scores: the positive has score 1, each negative 0. With scores, a negative has 1 - score.
    Source: arXiv:2309.12871, section "Angle Objective". The further terms of that paper (cosine and in-batch objectives)
    are `cosent` and `mnrl`; `sum` adds them.
    Shapes: anchor, positive, negatives (B, D); score (B,) or none. Coupling: batch (the rows of all processes).
    """

    coupling: ClassVar[str] = "batch"
    formats: ClassVar[tuple[str, ...]] = ("pair-score", "triplet", "n-tuple")
    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse")
    citation: ClassVar[str] = citations.ANGLE

    scale: float = option(20.0, gt=0, help="Factor of the similarity, 1 / temperature.")

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        others = ("positive", *batch.negatives)
        similarity = torch.cat([angle_paired(batch.local("anchor"), batch.local(role)) for role in others])
        if batch.negatives and batch.targets.score is None and batch.targets.label is None:
            target = torch.ones(len(batch), device=similarity.device)
        else:
            target = base.scores(batch, loss="angle")
        target = torch.cat([target, *[1 - target for _ in batch.negatives]])
        return LossOutput.whole(order_loss(similarity, target, scale=self.scale))
