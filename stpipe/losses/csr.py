"""Learning a sparse code of dense embeddings: reconstruction next to a main loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.fields import option
from stpipe.config.formats import QUERY_ROLES
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.reps import Column, RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses import citations
from stpipe.losses.base import Loss
from stpipe.losses.ranking import MultipleNegativesRankingLoss
from stpipe.ops.convert import upcast
from stpipe.ops.regularizers import mean_active

#: What the model's sparse autoencoder gives besides its code, (B, D) each; see models/modules/sparse_auto_encoder.py.
OUTPUTS = frozenset({"sae_input", "sae_k", "sae_4k", "sae_aux", "sae_aux_target"})


@LOSSES.register("csr", aliases=("CSRLoss",))
@dataclass(frozen=True)
class CSRLoss(Loss):
    """Contrastive sparse representation: the code of a sparse autoencoder serves a main loss and reconstructs its input.

        L = gamma L_main + L_k + L_4k / 8 + beta L_aux, the last three averaged over roles, where
        L_k = mean over rows i and dimensions d of (x_id - y_id)^2, L_4k the same with y from 4 k latents,
        L_aux = mean over i, d of (r_id - e_id)^2 / V, V = mean over i, d of (r_id - mean_j r_jd)^2

    x is the dense embedding, y its reconstruction from the k largest latents, r what y leaves unexplained, e the
    reconstruction of r from latents that are dead, so that they live again. V is taken over the rows of all processes; it is 1
    where all rows are equal. The model must have a SparseAutoEncoder. Its latents count as dead after a number of
    optimiser steps, where sentence-transformers counts every forward twice (k and 4 k) and once a role.
    Source: arXiv:2503.01776 section 3. Shapes: every role (B, H) codes, with outputs (B, D). Coupling: anchor (V), or
    that of the main loss when tighter.
    """

    coupling: ClassVar[str] = "anchor"
    kinds: ClassVar[tuple[str, ...]] = ("sparse",)
    wraps: ClassVar[tuple[str, ...]] = ("loss",)
    sparsity: ClassVar[str | None] = "autoencoder"
    citation: ClassVar[str] = citations.CSR

    loss: Loss = option(
        factory=lambda: MultipleNegativesRankingLoss(similarity="dot", scale=1.0),
        help="The main loss, on the codes; without it in-batch negatives under dot product.",
        component="loss",
    )
    beta: float = option(0.1, ge=0, help="Weight of L_aux, which wakes latents that no longer fire.")
    gamma: float = option(1.0, ge=0, help="Weight of the main loss.")

    def outputs(self, ctx: StepContext) -> frozenset[str]:
        return OUTPUTS | super().outputs(ctx)

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        columns = [check_outputs(role, column) for role, column in batch.columns.items()]
        out = LossOutput.combine(
            {
                "main": (self.gamma, self.loss(batch, ctx)),
                "reconstruction_k": (1.0, per_row(columns, lambda c: squared_error(c, "sae_k"))),
                "reconstruction_4k": (1 / 8, per_row(columns, lambda c: squared_error(c, "sae_4k"))),
                "reconstruction_aux": (self.beta, per_row(columns, aux_error)),
            }
        )
        return replace(out, metrics={**out.metrics, **active_dims(batch)})


def check_outputs(role: str, column: Column) -> Column:
    """The column, if it has all that the autoencoder gives."""
    missing = sorted(OUTPUTS - column.local.extras.keys())
    if missing:
        raise ConfigError(
            Problem(
                "loss",
                f"csr needs a model with a SparseAutoEncoder, but the representations of '{role}' lack its outputs {', '.join(missing)}. "
                "Use such a model, or another loss (splade)",
            )
        )
    return column


def per_row(columns: Iterable[Column], error: Callable[[Column], Tensor]) -> LossOutput:
    """Mean over roles of an error (B,), averaged over rows."""
    return LossOutput.per_row(torch.stack([error(column) for column in columns]).mean(0))


def squared_error(column: Column, name: str) -> Tensor:
    """(B,) mean squared difference of one reconstruction to the embedding."""
    extras = column.local.extras
    return (upcast(extras["sae_input"]) - upcast(extras[name])).square().mean(-1)


def aux_error(column: Column) -> Tensor:
    """(B,) mean squared error of the dead latents' reconstruction, relative to the spread of what it is to reconstruct."""
    extras, everyone = column.local.extras, upcast(column.all.extras["sae_aux_target"])
    spread = (everyone - everyone.mean(0)).square().mean()
    # Equal rows have no spread, but their mean may be rounded: what is left is then noise, which must not divide.
    flat = (spread == 0) | (everyone == everyone[:1]).all()
    error = (upcast(extras["sae_aux"]) - upcast(extras["sae_aux_target"])).square().mean(-1)
    return error / torch.where(flat, torch.ones_like(spread), spread)


def active_dims(batch: RepBatch) -> dict[str, Tensor]:
    """Mean number of active latents of queries and of documents; below k where fewer are above zero."""
    queries = [batch.local(role) for role in batch.columns if role in QUERY_ROLES]
    documents = [batch.local(role) for role in batch.columns if role not in QUERY_ROLES]
    sides = {"query_active_dims": queries, "document_active_dims": documents}
    return {name: mean_active(parts) for name, parts in sides.items() if parts}
