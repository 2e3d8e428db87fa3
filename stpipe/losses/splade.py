"""A main loss and the price of every term that a sparse representation uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stpipe.config.errors import ConfigError, DataError, Problem
from stpipe.config.fields import option
from stpipe.config.formats import QUERY_ROLES
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses import citations
from stpipe.losses.base import Loss, merge_targets
from stpipe.losses.ranking import MultipleNegativesRankingLoss
from stpipe.ops.regularizers import REGULARIZERS, RegularizerName, mean_active

QUERY, DOCUMENT = "query", "document"
REGULARIZER_HELP = "flops: sum over terms of the squared mean weight; l1: mean over texts of the summed weights."
THRESHOLD_HELP = "Texts with at most so many active terms cost nothing; None: every text costs."
TARGET_HELP = "so many, by steering the weight; the weight then starts at its full value without warm-up. None: the weight is as given."


@dataclass(frozen=True, slots=True)
class _Side:
    """The texts of one side: name (query or document), rows of this process and of the gather group by role, (N_k, V) each."""

    name: str
    local: list[Tensor]
    all: list[Tensor]

    @property
    def metric(self) -> str:
        return f"{self.name}_active_dims"


@LOSSES.register("splade", aliases=("SpladeLoss", "CachedSpladeLoss"))
@dataclass(frozen=True)
class SpladeLoss(Loss):
    """A main loss plus regularisers that make queries and documents use few terms of the vocabulary.

        L = L_main + w_q R_q(queries) + w_d R_d(documents),   FLOPS: R = sum over terms v of (mean over texts n of x_nv)^2

    Queries are the anchors, documents all texts of the other roles; R is taken over the texts of all processes, so that it does
    not depend on their number. w_q, w_d rise from 0 to query_weight, document_weight over the warm-up: quadratic means
    w = weight * (step / warm-up steps)^2. They are logged as query_weight, document_weight, and the mean number of active
    terms as query_active_dims, document_active_dims. With a target for these, w = weight * factor, and the factor is steered.
    Source: arXiv:2107.05720 eq. 4, 5; weights by side and quadratic warm-up: arXiv:2205.04733.
    Shapes: every role (B, V) local rows, (M, V) all rows, values >= 0. Coupling: anchor, or that of the main loss when tighter.
    """

    coupling: ClassVar[str] = "anchor"
    kinds: ClassVar[tuple[str, ...]] = ("sparse",)
    wraps: ClassVar[tuple[str, ...]] = ("loss",)
    sparsity: ClassVar[str | None] = "regularizer"
    citation: ClassVar[str] = citations.SPLADE

    loss: Loss = option(
        factory=lambda: MultipleNegativesRankingLoss(similarity="dot", scale=1.0),
        help="The main loss; without it in-batch negatives under dot product.",
        component="loss",
    )
    query_weight: float = option(5e-5, ge=0, help="Weight of the regulariser of the queries after the warm-up; 0 leaves it out.")
    document_weight: float = option(3e-5, ge=0, help="Weight of the regulariser of the documents after the warm-up; 0 leaves it out.")
    query_regularizer: RegularizerName = option("flops", help=REGULARIZER_HELP)
    document_regularizer: RegularizerName = option("flops", help=REGULARIZER_HELP)
    query_threshold: int | None = option(None, ge=0, help=THRESHOLD_HELP)
    document_threshold: int | None = option(None, ge=0, help=THRESHOLD_HELP)
    documents_only: bool = option(
        False,
        help="All texts are documents, the anchors too, under one regulariser (pairs of like texts). Queries without a network: query_weight 0.",
    )
    schedule: Literal["quadratic", "linear", "constant"] = option(
        "quadratic", help="How the weights rise over the warm-up; constant: full from the first step."
    )
    warmup: float = option(1 / 3, ge=0, help="Steps until the weights are full: a share of all steps below 1, a number of steps from 1 on.")
    query_active_dims: int | None = option(None, ge=1, help=f"Bring the mean number of active terms of a query to {TARGET_HELP}")
    document_active_dims: int | None = option(None, ge=1, help=f"Bring the mean number of active terms of a document to {TARGET_HELP}")

    def __post_init__(self) -> None:
        for side in (QUERY, DOCUMENT):
            if self._target(side) is None:
                continue
            if not getattr(self, f"{side}_weight"):
                raise ConfigError(
                    Problem(f"{side}_active_dims", f"steers {side}_weight, which is 0; give it the weight to start from, like 1e-4")
                )
            if side == QUERY and self.documents_only:
                raise ConfigError(
                    Problem("query_active_dims", "has nothing to steer: documents_only makes all texts documents. Set document_active_dims")
                )

    def targets(self) -> Mapping[str, float]:
        own = {f"{side}_active_dims": float(t) for side in (QUERY, DOCUMENT) if (t := self._target(side)) is not None}
        return merge_targets([own, *(loss.targets() for loss in self.inner())])

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        main = self.loss(batch, ctx)
        parts: dict[str, tuple[float | Tensor, LossOutput]] = {"main": (1.0, main)}
        metrics: dict[str, Tensor] = {}
        for side in self._sides(batch):
            metrics[side.metric] = mean_active(side.local)
            if not getattr(self, f"{side.name}_weight") or (side.name == QUERY and self.documents_only):
                continue
            weight = self._weight(side, ctx)
            regularizer = REGULARIZERS[getattr(self, f"{side.name}_regularizer")]
            value = regularizer(side.all, threshold=getattr(self, f"{side.name}_threshold"))
            parts[f"{side.name}_regularizer"] = (weight, LossOutput.whole(value))
            metrics[f"{side.name}_weight"] = weight.detach()
        out = LossOutput.combine(parts)
        return LossOutput(out.sum, out.count, out.terms, {**out.metrics, **metrics})

    def _target(self, side: str) -> int | None:
        return self.query_active_dims if side == QUERY else self.document_active_dims

    def _sides(self, batch: RepBatch) -> list[_Side]:
        """Queries and documents, as far as the batch has any."""
        queries = [r for r in batch.columns if r in QUERY_ROLES]
        documents = [r for r in batch.columns if r not in QUERY_ROLES or self.documents_only]
        if not documents and self.document_active_dims is not None:
            raise DataError(
                "loss 'splade' shall bring document_active_dims to a value, but a row has no text other than its anchor. "
                "Set documents_only: true, or query_active_dims"
            )
        found = {QUERY: queries, DOCUMENT: documents}
        return [
            _Side(name, [batch.local(r) for r in roles], [batch.columns[r].all.values for r in roles])
            for name, roles in found.items()
            if roles
        ]

    def _weight(self, side: _Side, ctx: StepContext) -> Tensor:
        """0-d fp32 weight of this step. A steered weight has no warm-up: the controller alone moves it."""
        value = getattr(self, f"{side.name}_weight") * (1.0 if self._target(side.name) is not None else self.ramp(ctx))
        weight = torch.full((), value, device=side.all[0].device)
        factor = ctx.factors.get(side.metric)
        return weight if factor is None else weight * factor

    def ramp(self, ctx: StepContext) -> float:
        """Share of the full weight at a step: 0 at the first, 1 after the warm-up, and 1 when the run's length is not known."""
        if self.schedule == "constant" or not self.warmup or not ctx.num_steps:
            return 1.0
        steps = max(int(self.warmup * ctx.num_steps if self.warmup < 1 else self.warmup), 1)
        return min(ctx.step / steps, 1.0) ** (2 if self.schedule == "quadratic" else 1)
