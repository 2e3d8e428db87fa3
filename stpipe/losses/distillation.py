"""Losses that make a student's representations those of a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stpipe.config.errors import DataError
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses import citations
from stpipe.losses.base import Loss
from stpipe.ops.convert import upcast


@LOSSES.register("mse", aliases=("MSELoss",))
@dataclass(frozen=True)
class MSELoss(Loss):
    """Mean squared difference to the teacher's embedding.

        L_i = mean over roles r and dimensions k of (x_irk - y_irk)^2

    The teacher's vectors are given per role, or once for all roles (a sentence and its translation learn one vector).
    Source: arXiv:2004.09813 section 2. Shapes: every role (B, D); vectors (B, D). Coupling: row.
    """

    coupling: ClassVar[str] = "row"
    formats: ClassVar[tuple[str, ...]] = ("text-vector", "pair-vector")
    citation: ClassVar[str] = citations.DISTILLATION

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        errors = [(upcast(batch.local(role)) - self._teacher(batch, role)).square().mean(-1) for role in batch.roles]
        return LossOutput.per_row(torch.stack(errors).mean(0))

    @staticmethod
    def _teacher(batch: RepBatch, role: str) -> Tensor:
        """(B, D) vectors for one role."""
        vectors, student = batch.targets.vectors, batch.local(role)
        teacher = vectors.get(role, vectors.get("*"))
        if teacher is None:
            raise DataError(
                f"loss 'mse' needs a teacher's vector for '{role}', found: {sorted(vectors) or 'none'}. Map it with dataset.columns.label"
            )
        if teacher.shape != student.shape:
            raise DataError(
                f"loss 'mse': the teacher's vectors for '{role}' have {teacher.shape[-1]} dimensions, the model has {student.shape[-1]}. "
                "Use a teacher of that width, or give the model a dense head of the teacher's"
            )
        return upcast(teacher.detach())
