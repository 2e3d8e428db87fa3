"""Embeddings that lie where a teacher's lie, in the teacher's space or after a learned map into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses import citations
from stpipe.losses.base import Loss, ModelFacts
from stpipe.losses.distillation import teacher_vectors
from stpipe.losses.learned import PrefixLinear
from stpipe.ops.convert import upcast
from stpipe.ops.similarity import cosine_paired


@LOSSES.register("embed_distill", aliases=("EmbedDistillLoss",))
@dataclass(frozen=True)
class EmbedDistillLoss(Loss):
    """Distance of the student's embedding to the teacher's.

        L_i = mean over roles r of d(P x_ir, y_ir),   d: 1 - cosine, |.|_2 (l2), or mean over dimensions of (.)^2 (mse)

    P is the identity, or with projection_dim a linear map into the teacher's space that is learned beside the model and dropped
    with it. The teacher's vectors are given per role, or once for all roles.
    Source: arXiv:2301.12005 section 3 (embedding matching, with l2). Shapes: every role (B, D); vectors (B, D), with projection
    (B, projection_dim). Coupling: row.
    """

    coupling: ClassVar[str] = "row"
    formats: ClassVar[tuple[str, ...]] = ("text-vector", "pair-vector")
    learns: ClassVar[str | None] = "projection_dim"
    citation: ClassVar[str] = citations.EMBED_DISTILL

    distance_metric: Literal["cosine", "l2", "mse"] = option("cosine", help="How far apart two vectors are; cosine ignores their lengths.")
    projection_dim: int | None = option(
        None, ge=1, help="Width of the teacher's vectors where it is not the student's: a linear map to it is learned. None: no map."
    )

    def target_width(self, embedding_dim: int) -> int | None:
        return self.projection_dim or embedding_dim

    def learned(self, model: ModelFacts) -> nn.Module | None:
        return PrefixLinear(model.embedding_dim, self.projection_dim) if self.projection_dim is not None else None

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        layer = self.own(ctx) if self.projection_dim is not None else None
        return LossOutput.per_row(torch.stack([self._distance(batch, role, layer) for role in batch.roles]).mean(0))

    def _distance(self, batch: RepBatch, role: str, layer: nn.Module | None) -> Tensor:
        """(B,) distances of one role."""
        x = upcast(batch.local(role)) if layer is None else layer(batch.local(role))
        y = teacher_vectors(batch.targets, role, x.shape[-1], loss="embed_distill").to(x.dtype)
        if self.distance_metric == "cosine":
            return 1 - cosine_paired(x, y)
        return (x - y).square().mean(-1) if self.distance_metric == "mse" else torch.linalg.vector_norm(x - y, dim=-1)
