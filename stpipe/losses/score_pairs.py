"""Losses of cross-encoders on one pair at a time, and on the margin between two: classification, regression, distillation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stpipe.config.errors import ConfigError, DataError, Problem
from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.result import LossOutput
from stpipe.core.scores import ScoreBatch
from stpipe.losses import citations
from stpipe.losses.distillation import teacher_margins
from stpipe.losses.score_loss import ScoreLoss, mean_of
from stpipe.ops.activations import activation
from stpipe.ops.convert import upcast


@LOSSES.register("binary_cross_entropy", aliases=("BinaryCrossEntropyLoss", "bce"))
@dataclass(frozen=True)
class BinaryCrossEntropyLoss(ScoreLoss):
    """Is the document relevant to the query? Each pair on its own.

        L_ij = -(w y_ij log sigmoid(z_ij) + (1 - y_ij) log(1 - sigmoid(z_ij))),   w = pos_weight

    y is the label of the pair, from 0 to 1; of triplets and n-tuples 1 for the positive and 0 for each negative. Averaged over pairs.
    Source: arXiv:1901.04085 section 3 (w = 1). Shapes: logits (B, K, 1); score or label (B,), or scores (B, K). Coupling: row.
    """

    counts: ClassVar[str] = "candidates"
    formats: ClassVar[tuple[str, ...]] = ("pair-class", "pair-score", "query-document", "query-documents", "triplet", "n-tuple")
    label_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    citation: ClassVar[str] = citations.PASSAGE_RERANKING

    pos_weight: float | Literal["auto"] | None = option(
        None, gt=0, help="Factor of the loss of relevant pairs; auto: as many as there are irrelevant pairs to a relevant one in training."
    )

    def fitted(self, grades: Tensor) -> BinaryCrossEntropyLoss:
        if self.pos_weight != "auto":
            return self
        relevant = float(grades.sum())
        irrelevant = grades.numel() - relevant
        if relevant <= 0 or irrelevant <= 0:
            raise DataError(
                f"loss 'binary_cross_entropy': pos_weight auto needs relevant and irrelevant pairs, but the labels of the "
                f"{grades.numel()} training pairs add up to {relevant:g}. Set pos_weight to a number, or correct the labels"
            )
        return replace(self, pos_weight=irrelevant / relevant)

    def __call__(self, batch: ScoreBatch, ctx: StepContext) -> LossOutput:
        score, grades = self.scores(batch), self.grades(batch)
        return mean_of(-(self._weight() * grades * F.logsigmoid(score) + (1 - grades) * F.logsigmoid(-score)), batch.mask)

    def _weight(self) -> float:
        if isinstance(self.pos_weight, str):
            found = "auto is taken from the labels of the training data: call fitted(grades) first, or give a number"
            raise ConfigError(Problem("pos_weight", found))
        return 1.0 if self.pos_weight is None else self.pos_weight


@LOSSES.register("cross_entropy", aliases=("CrossEntropyLoss",))
@dataclass(frozen=True)
class CrossEntropyLoss(ScoreLoss):
    """Which class is the pair of? One output of the model for each class.

        L_i = -sum over classes c of q_c log p_c,   p = softmax of z_i,   q_c = (1 - e) [c = y_i] + e / C,   e = label_smoothing

    A class that the model has no output for is an error, also -100, which torch leaves out silently.
    Source: arXiv:1810.04805 section 4.1; label smoothing arXiv:1512.00567 section 7. Shapes: logits (B, 1, C); label (B,), or score (B,)
    that is a whole number. Coupling: row.
    """

    formats: ClassVar[tuple[str, ...]] = ("pair-class", "query-document")
    num_outputs: ClassVar[str | None] = "classes"

    label_smoothing: float = option(0.0, ge=0, lt=1, help="Share of the target that is spread over all classes evenly.")

    def __call__(self, batch: ScoreBatch, ctx: StepContext) -> LossOutput:
        log_p = torch.log_softmax(activation(self.activation)(upcast(self._logits(batch))), dim=1)
        # gather checks the class: an error on a CPU, a failed assertion of the device on a GPU; nothing is left out.
        nll = -log_p.gather(1, self._classes(batch)[:, None]).squeeze(1)
        return LossOutput.per_row((1 - self.label_smoothing) * nll - self.label_smoothing * log_p.mean(1))

    @staticmethod
    def _logits(batch: ScoreBatch) -> Tensor:
        """(B, C) logits of the only candidate of each row."""
        _, candidates, outputs = batch.logits.shape
        if outputs < 2:
            raise ConfigError(
                Problem(
                    "model.num_labels",
                    "loss 'cross_entropy' needs one output for each class, but the model has 1; "
                    "set the number of classes, or use binary_cross_entropy",
                )
            )
        if candidates != 1:
            raise DataError(f"loss 'cross_entropy' needs one text for each query, found {candidates}; use data of format pair-class")
        return batch.logits[:, 0]

    @staticmethod
    def _classes(batch: ScoreBatch) -> Tensor:
        """(B,) int64 class of each row."""
        found = batch.targets.label if batch.targets.label is not None else batch.targets.score
        if found is None:
            raise DataError("loss 'cross_entropy' needs a class for each row, but the batch has none. Map one with dataset.columns.label")
        return found.long()


@LOSSES.register("reranker_mse")
@dataclass(frozen=True)
class RerankerMSELoss(ScoreLoss):
    """Squared difference to a teacher's score, or to a label that means a number.

        L_ij = (z_ij - y_ij)^2

    Averaged over pairs. Mind the range of the teacher: for scores from 0 to 1 the activation Sigmoid gives the student the same.
    Source: arXiv:2010.02666 (the pointwise loss that margins are compared with there). Shapes: logits (B, K, 1); score (B,), or scores
    (B, K). Coupling: row.
    """

    counts: ClassVar[str] = "candidates"
    formats: ClassVar[tuple[str, ...]] = ("pair-score", "query-document", "query-documents", "n-tuple-scores")
    citation: ClassVar[str] = citations.MARGIN_MSE

    def __call__(self, batch: ScoreBatch, ctx: StepContext) -> LossOutput:
        return mean_of((self.scores(batch) - self.grades(batch)).square(), batch.mask)


@LOSSES.register("reranker_margin_mse")
@dataclass(frozen=True)
class RerankerMarginMSELoss(ScoreLoss):
    """Squared difference of the model's and a teacher's margin between the positive and each negative.

        L_in = ((z_ip - z_in) - (t_ip - t_in))^2

    The label holds the teacher's margins t_ip - t_in, one a negative and with their sign, or its scores, that of the positive first;
    which of the two is told by their number. Averaged over negatives. Source: arXiv:2010.02666, "Margin-MSE".
    Shapes: logits (B, 1 + n, 1); score (B,), or scores (B, n) or (B, 1 + n). Coupling: row.
    """

    counts: ClassVar[str] = "negatives"
    formats: ClassVar[tuple[str, ...]] = ("triplet-score", "n-tuple-scores")
    margins: ClassVar[bool] = True
    citation: ClassVar[str] = citations.MARGIN_MSE

    def __call__(self, batch: ScoreBatch, ctx: StepContext) -> LossOutput:
        score, keep = self.scores(batch), batch.mask[:, 1:]
        margins = teacher_margins(batch.targets, keep.shape[1], loss="reranker_margin_mse")
        error = torch.where(keep, score[:, :1] - score[:, 1:] - margins, 0)
        return mean_of(error.square(), keep)
