"""Margin losses on triplets: given ones, and those that the classes of a batch make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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
from stpipe.ops import masks
from stpipe.ops.reduce import hinge_sums, masked_max, masked_min, masked_sum
from stpipe.ops.similarity import SIMILARITIES, MetricName

METRIC_HELP = "Distance: 1 - cosine, Euclidean or Manhattan."
MARGIN_HELP = (
    "How much farther negatives have to be than positives; 5 suits Euclidean distances of unnormalised embeddings, try 0.2 for cosine."
)


@LOSSES.register("triplet", aliases=("TripletLoss", "SparseTripletLoss"))
@dataclass(frozen=True)
class TripletLoss(Loss):
    """The positive is nearer than the negative by a margin.

        L_i = mean over negatives n of max(0, d(a_i, p_i) - d(a_i, n) + margin)

    Source: arXiv:1908.10084 section 3, "Triplet Objective Function" (one negative; several are averaged here).
    Shapes: anchor, positive, negatives (B, D). Coupling: row.
    """

    coupling: ClassVar[str] = "row"
    formats: ClassVar[tuple[str, ...]] = ("triplet", "n-tuple")
    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse")
    citation: ClassVar[str] = citations.TRIPLET

    triplet_margin: float = option(5.0, ge=0, help=MARGIN_HELP)
    metric: MetricName = option("euclidean", help=METRIC_HELP)

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        distance = SIMILARITIES[self.metric].distance_paired
        anchor = batch.local("anchor")
        near = distance(anchor, batch.local("positive"))
        far = torch.stack([distance(anchor, batch.local(role)) for role in batch.negatives])
        return LossOutput.per_row((near - far + self.triplet_margin).relu().mean(0))


@dataclass(frozen=True, slots=True)
class _Classes:
    """distance (B, B); positive, negative (B, B) bool: another row of the class, a row of another class; both (B,) bool: has either."""

    distance: Tensor
    positive: Tensor
    negative: Tensor

    @property
    def both(self) -> Tensor:
        return self.positive.any(1) & self.negative.any(1)

    @staticmethod
    def of(batch: RepBatch, metric: str, *, loss: str) -> _Classes:
        label = base.classes(batch, loss=loss)
        anchor = batch.local("anchor")
        return _Classes(SIMILARITIES[metric].distance_matrix(anchor, anchor), masks.same_class_pairs(label), ~masks.same(label, label))


@LOSSES.register("batch_hard_triplet", aliases=("BatchHardTripletLoss",))
@dataclass(frozen=True)
class BatchHardTripletLoss(Loss):
    """For each text its farthest positive and its nearest negative in the batch.

        L_i = max(0, margin + max over p of d(i, p) - min over n of d(i, n))

    p: other texts of the class of i; n: texts of other classes. A text without either makes no triplet and does not count.
    Source: arXiv:1703.07737 eq. 5. Shapes: anchor (B, D); label (B,). Coupling: batch (the rows of all processes).
    """

    coupling: ClassVar[str] = "batch"
    formats: ClassVar[tuple[str, ...]] = ("labelled-text",)
    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse")
    citation: ClassVar[str] = citations.TRIPLET

    margin: float = option(5.0, ge=0, help=MARGIN_HELP)
    metric: MetricName = option("euclidean", help=METRIC_HELP)

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        rows = _Classes.of(batch, self.metric, loss="batch_hard_triplet")
        gap = masked_max(rows.distance, rows.positive, 1) - masked_min(rows.distance, rows.negative, 1)
        return LossOutput.per_row((gap + self.margin).relu(), rows.both)


@LOSSES.register("batch_hard_soft_margin_triplet", aliases=("BatchHardSoftMarginTripletLoss",))
@dataclass(frozen=True)
class BatchHardSoftMarginTripletLoss(Loss):
    """Batch-hard triplets with a softplus in place of the hinge, so that there is no margin to choose.

        L_i = log(1 + exp(max over p of d(i, p) - min over n of d(i, n)))

    p, n and texts without triplet as in `batch_hard_triplet`. Source: arXiv:1703.07737 section 2, "Soft-margin".
    Shapes: anchor (B, D); label (B,). Coupling: batch (the rows of all processes).
    """

    coupling: ClassVar[str] = "batch"
    formats: ClassVar[tuple[str, ...]] = ("labelled-text",)
    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse")
    citation: ClassVar[str] = citations.TRIPLET

    metric: MetricName = option("euclidean", help=METRIC_HELP)

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        rows = _Classes.of(batch, self.metric, loss="batch_hard_soft_margin_triplet")
        gap = masked_max(rows.distance, rows.positive, 1) - masked_min(rows.distance, rows.negative, 1)
        return LossOutput.per_row(F.softplus(gap), rows.both)


@LOSSES.register("batch_semi_hard_triplet", aliases=("BatchSemiHardTripletLoss",))
@dataclass(frozen=True)
class BatchSemiHardTripletLoss(Loss):
    """For each pair of a class the nearest negative that is farther than the positive.

        L = mean over pairs (i, p) of max(0, d(i, p) - d(i, n) + margin),
        n = the nearest negative with d(i, n) > d(i, p); without one, the farthest negative

    Pairs whose first text has no negative do not count. Source: arXiv:1503.03832 section 3.2 (semi-hard negatives).
    Shapes: anchor (B, D); label (B,). Coupling: batch (the rows of all processes). Count: pairs.
    """

    coupling: ClassVar[str] = "batch"
    formats: ClassVar[tuple[str, ...]] = ("labelled-text",)
    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse")
    citation: ClassVar[str] = citations.SEMI_HARD

    margin: float = option(5.0, ge=0, help=MARGIN_HELP)
    metric: MetricName = option("euclidean", help=METRIC_HELP)

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        rows = _Classes.of(batch, self.metric, loss="batch_semi_hard_triplet")
        ordered = rows.distance.masked_fill(~rows.negative, torch.inf).sort(dim=1).values
        beyond = torch.searchsorted(ordered.detach(), rows.distance.detach(), right=True)  # (B, B) first negative farther than j
        number = rows.negative.sum(1, keepdim=True)
        chosen = ordered.gather(1, torch.minimum(beyond, number - 1).clamp(min=0))  # none is farther: the last, which is the farthest
        hinge = (rows.distance - chosen + self.margin).relu()
        return LossOutput.per_row(hinge, rows.positive & (number > 0))


@LOSSES.register("batch_all_triplet", aliases=("BatchAllTripletLoss",))
@dataclass(frozen=True)
class BatchAllTripletLoss(Loss):
    """All triplets that the classes of the batch make, averaged over those that violate the margin.

        L = sum over i, p, n of h / number of h > 0,   h = max(0, d(i, p) - d(i, n) + margin)

    Hinges of one row are summed by sorting (ops.reduce.hinge_sums), never spelled out: O(B^2 log B) instead of B^3.
    Source: arXiv:1703.07737 eq. 6, with the mean over non-zero terms of its section 3.2 ("BA != 0").
    Shapes: anchor (B, D); label (B,). Coupling: batch (the rows of all processes). Count: violating triplets.
    """

    coupling: ClassVar[str] = "batch"
    formats: ClassVar[tuple[str, ...]] = ("labelled-text",)
    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse")
    citation: ClassVar[str] = citations.TRIPLET

    margin: float = option(5.0, ge=0, help=MARGIN_HELP)
    metric: MetricName = option("euclidean", help=METRIC_HELP)

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        rows = _Classes.of(batch, self.metric, loss="batch_all_triplet")
        hinges, number = hinge_sums(rows.distance + self.margin, rows.distance, rows.negative)
        return LossOutput(masked_sum(hinges, rows.positive), (number * rows.positive).sum().float())
