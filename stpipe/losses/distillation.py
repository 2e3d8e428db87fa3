"""Losses that make a student's representations, or the scores that they give, those of a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stpipe.config.errors import DataError
from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.core.batch import Targets
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses import citations
from stpipe.losses.base import Loss
from stpipe.ops.convert import upcast
from stpipe.ops.similarity import SIMILARITIES, SimilarityName

SIMILARITY_HELP = "Similarity of query and text in the student; the distances are negated."


@LOSSES.register("mse", aliases=("MSELoss", "SparseMSELoss"))
@dataclass(frozen=True)
class MSELoss(Loss):
    """Mean squared difference to the teacher's embedding.

        L_i = mean over roles r and dimensions k of (x_irk - y_irk)^2

    The teacher's vectors are given per role, or once for all roles (a sentence and its translation learn one vector).
    Source: arXiv:2004.09813 section 2. Shapes: every role (B, D); vectors (B, D). Coupling: row.
    """

    coupling: ClassVar[str] = "row"
    formats: ClassVar[tuple[str, ...]] = ("text-vector", "pair-vector")
    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse")
    citation: ClassVar[str] = citations.DISTILLATION

    def target_width(self, embedding_dim: int) -> int | None:
        return embedding_dim

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        return LossOutput.per_row(torch.stack([self._error(batch, role) for role in batch.roles]).mean(0))

    @staticmethod
    def _error(batch: RepBatch, role: str) -> Tensor:
        """(B,) mean squared difference of one role."""
        student = upcast(batch.local(role))
        return (student - teacher_vectors(batch.targets, role, student.shape[-1], loss="mse")).square().mean(-1)


def teacher_vectors(targets: Targets, role: str, width: int, *, loss: str) -> Tensor:
    """(B, width) vectors of a teacher for one role: those given for it, or for all roles.

    Args:
        targets: of the rows.
        role: role of the texts.
        width: of what they are compared with.
        loss: name of the loss that asks, for messages.

    Raises:
        DataError: there are none, or they have another width.
    """
    vectors = targets.vectors
    teacher = vectors.get(role, vectors.get("*"))
    if teacher is None:
        raise DataError(
            f"loss '{loss}' needs a teacher's vector for '{role}', found: {sorted(vectors) or 'none'}. Map it with dataset.columns.label"
        )
    if teacher.shape[-1] != width:
        raise DataError(
            f"loss '{loss}': the teacher's vectors for '{role}' have {teacher.shape[-1]} dimensions, the model has {width}. "
            "Use a teacher of that width, give the model a dense head of the teacher's, or learn a map (embed_distill with projection_dim)"
        )
    return upcast(teacher.detach())


def student_scores(batch: RepBatch, similarity: str) -> Tensor:
    """(B, 1 + n) similarity of each anchor to its positive and its n negatives, in this order."""
    paired, anchor = SIMILARITIES[similarity].paired, batch.local("anchor")
    return torch.stack([paired(anchor, batch.local(role)) for role in ("positive", *batch.negatives)], dim=1)


@LOSSES.register("margin_mse", aliases=("MarginMSELoss", "SparseMarginMSELoss"))
@dataclass(frozen=True)
class MarginMSELoss(Loss):
    """Squared difference of the student's and the teacher's margin between positive and negative.

        L_i = mean over negatives n of ((s(a_i, p_i) - s(a_i, n)) - (t(a_i, p_i) - t(a_i, n)))^2

    The label holds the teacher's margins t(a, p) - t(a, n), one a negative and with their sign, or its scores, that of the positive
    first; which of the two is told by their number. Source: arXiv:2010.02666, "Margin-MSE" (one negative; several are averaged here).
    Shapes: anchor, positive, negatives (B, D); score (B,), or scores (B, n) or (B, 1 + n). Coupling: row.
    """

    coupling: ClassVar[str] = "row"
    formats: ClassVar[tuple[str, ...]] = ("triplet-score", "n-tuple-scores")
    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse")
    margins: ClassVar[bool] = True
    citation: ClassVar[str] = citations.MARGIN_MSE

    similarity: SimilarityName = option("dot", help=SIMILARITY_HELP)

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        scores = student_scores(batch, self.similarity)
        teacher = teacher_margins(batch.targets, len(batch.negatives), loss="margin_mse")
        return LossOutput.per_row((scores[:, :1] - scores[:, 1:] - teacher).square().mean(1))


def teacher_margins(targets: Targets, negatives: int, *, loss: str) -> Tensor:
    """(B, n) margins of the teacher between the positive and each of n = `negatives` negatives: as given, or from its 1 + n scores.

    Args:
        targets: of the rows.
        negatives: of each row.
        loss: name of the loss that asks, for messages.

    Raises:
        DataError: there is no label, or it has another number of values.
    """
    given = targets.scores if targets.scores is not None else targets.score
    wanted = f"{negatives} margin(s) of a teacher, or {negatives + 1} scores with that of the positive first,"
    if given is None:
        raise DataError(f"loss '{loss}' needs {wanted} a row, but the batch has no label. Map one with dataset.columns.label")
    given = upcast(given.detach())
    given = given[:, None] if given.dim() == 1 else given
    if given.shape[1] not in (negatives, negatives + 1):
        raise DataError(f"loss '{loss}' needs {wanted} a row with {negatives} negative(s); found {given.shape[1]}")
    return given if given.shape[1] == negatives else given[:, :1] - given[:, 1:]


@LOSSES.register("distill_kl_div", aliases=("DistillKLDivLoss",))
@dataclass(frozen=True)
class DistillKLDivLoss(Loss):
    """Divergence of the student's distribution over the texts of a row from the teacher's.

        L_i = T_s^2 sum over texts d of q(d) log(q(d) / p(d)),   q = softmax of t(a_i, d) / T_t,   p = softmax of s(a_i, d) / T_s

    d: the positive and the negatives of the row. T_s^2 keeps the size of the gradient when a common temperature is raised. Metric
    teacher_confidence: mean of the teacher's largest q; near 1, little but the order's top is learned: raise the temperature.
    Source: arXiv:2010.11386 (KL of the score distributions); the temperature and its square arXiv:1503.02531 section 2.
    Shapes: anchor, positive, negatives (B, D); scores (B, 1 + n) in this order. Coupling: row.
    """

    coupling: ClassVar[str] = "row"
    formats: ClassVar[tuple[str, ...]] = ("n-tuple-scores",)
    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse")
    citation: ClassVar[str] = citations.COUPLED_TEACHERS

    similarity: SimilarityName = option("dot", help=SIMILARITY_HELP)
    temperature: float = option(1.0, gt=0, help="Divides the scores of student and teacher; higher is flatter, 1 leaves them as they are.")
    student_temperature: float | None = option(None, gt=0, help="The student's own temperature; None: temperature.")
    teacher_temperature: float | None = option(
        None, gt=0, help="The teacher's own temperature, to suit the spread of its scores; None: temperature."
    )

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        mine, its = self.student_temperature or self.temperature, self.teacher_temperature or self.temperature
        log_p = torch.log_softmax(student_scores(batch, self.similarity) / mine, dim=1)
        q = torch.softmax(self._teacher(batch) / its, dim=1)
        out = LossOutput.per_row(F.kl_div(log_p, q.to(log_p.dtype), reduction="none").sum(1) * mine**2)
        return LossOutput(out.sum, out.count, metrics={"teacher_confidence": q.amax(1).mean()})

    @staticmethod
    def _teacher(batch: RepBatch) -> Tensor:
        """(B, 1 + n) scores of the teacher."""
        scores, texts = batch.targets.scores, 1 + len(batch.negatives)
        found = "none" if scores is None else f"{scores.shape[1]}"
        if scores is None or scores.shape[1] != texts or texts < 2:
            raise DataError(
                f"loss 'distill_kl_div' needs the teacher's scores of the positive and of at least one negative of each row, here {texts} in "
                f"that order; found {found}. Map a list of scores with dataset.columns.label (for margins there is margin_mse)"
            )
        return upcast(scores.detach())


@LOSSES.register("sparse_distill_kl_div", aliases=("SparseDistillKLDivLoss",))
@dataclass(frozen=True)
class SparseDistillKLDivLoss(DistillKLDivLoss):
    """`distill_kl_div` with the temperature that the documentation gives sparse models.

        L_i as in `distill_kl_div`, T = 2

    Source: as `distill_kl_div`. Shapes: anchor, positive, negatives (B, V); scores (B, 1 + n). Coupling: row.
    """

    kinds: ClassVar[tuple[str, ...]] = ("sparse",)

    temperature: float = option(2.0, gt=0, help="Divides the scores of student and teacher; higher is flatter, 1 leaves them as they are.")
