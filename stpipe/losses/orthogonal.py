"""A regulariser that spreads embeddings over their space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.reps import Column, RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses import citations
from stpipe.losses.base import Loss
from stpipe.ops import masks
from stpipe.ops.moments import pair_moments
from stpipe.ops.similarity import normalize


@LOSSES.register("global_orthogonal_regularization", aliases=("GlobalOrthogonalRegularizationLoss", "gor"))
@dataclass(frozen=True)
class GlobalOrthogonalRegularizationLoss(Loss):
    """Texts that have nothing to do with each other are on average as dissimilar as random directions.

        L = mean over roles r of w_1 M_1^2 + w_2 max(0, M_2 - 1/D),
        M_1 = mean over pairs i != j of s(x_ir, x_jr),   M_2 = mean over the pairs of s(x_ir, x_jr)^2

    Pairs are those of different texts of one role, of all processes; a text that several rows have counts once. Random unit vectors have
    M_1 = 0 and M_2 = 1/D. A term beside a main loss (`sum`). Terms mean and second_moment are logged before weighting.
    Computed from sums and from the smaller of the D x D and M x M products, never from a list of pairs.
    Source: arXiv:1708.06320 section 3; second moment only, summed over roles: arXiv:2509.20354.
    Shapes: every role (B, D) local rows, (M, D) all rows. Coupling: anchor (the moments of all rows).
    """

    coupling: ClassVar[str] = "anchor"
    formats: ClassVar[tuple[str, ...]] = (
        "text",
        "text-vector",
        "labelled-text",
        "pair",
        "pair-vector",
        "pair-score",
        "pair-class",
        "triplet",
        "triplet-score",
        "n-tuple",
        "n-tuple-scores",
    )
    citation: ClassVar[str] = citations.SPREAD_OUT

    similarity: Literal["cosine", "dot"] = option("cosine", help="Similarity whose moments are meant.")
    mean_weight: float = option(1.0, ge=0, help="Weight of the squared mean similarity; 0 leaves it out.")
    second_moment_weight: float = option(1.0, ge=0, help="Weight of what the mean squared similarity exceeds 1/D by; 0 leaves it out.")
    aggregation: Literal["mean", "sum"] = option("mean", help="Mean or sum over roles; EmbeddingGemma sums.")

    def __post_init__(self) -> None:
        if not self.mean_weight and not self.second_moment_weight:
            raise ConfigError(Problem("mean_weight", "and second_moment_weight are both 0, so nothing is left; give one of them, like 1.0"))

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        found = torch.stack([torch.stack(self._terms(batch.columns[role])) for role in batch.roles])
        mean, second = found.sum(0) if self.aggregation == "sum" else found.mean(0)
        parts = {"mean": (self.mean_weight, mean), "second_moment": (self.second_moment_weight, second)}
        rows = len(batch)
        return LossOutput.combine(
            {name: (weight, LossOutput.per_row(value.expand(rows))) for name, (weight, value) in parts.items() if weight}
        )

    def _terms(self, column: Column) -> tuple[Tensor, Tensor]:
        """M_1^2 and max(0, M_2 - 1/D) of one role."""
        x = column.all.values
        keep = masks.first_of_each(column.text_id)
        mean, second = pair_moments(normalize(x) if self.similarity == "cosine" else x, keep)
        return mean.square(), (second - 1 / x.shape[1]).relu()
