"""Losses made of losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.config.used_losses import counts_differ
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses import citations
from stpipe.losses.base import Loss, Term
from stpipe.ops.similarity import normalize


def truncate(dim: int) -> Callable[[Tensor], Tensor]:
    """Map (..., D) to its first `dim` dimensions."""

    def first(x: Tensor) -> Tensor:
        if dim > x.shape[-1]:
            raise ConfigError(Problem("loss.dims", f"{dim} is more than the {x.shape[-1]} dimensions of the embeddings"))
        return x[..., :dim]

    return first


@LOSSES.register("matryoshka", aliases=("MatryoshkaLoss",))
@dataclass(frozen=True)
class MatryoshkaLoss(Loss):
    """The inner loss on the first d dimensions of every embedding, for several d.

        L = sum over d of w_d L_inner(x[:d])

    Vectors of a teacher are cut alike. A prefix goes to the inner loss as it is: its similarity does what it does at
    inference, so cosine normalises and dot does not. Source: arXiv:2205.13147 eq. 1.
    Coupling: that of the inner loss.
    """

    coupling: ClassVar[str] = "inherit"
    wraps: ClassVar[tuple[str, ...]] = ("loss",)
    citation: ClassVar[str] = citations.MATRYOSHKA

    loss: Loss = option(help="The loss to apply to every prefix.", component="loss")
    dims: tuple[int, ...] = option(
        help="Lengths of the prefixes, like [384, 256, 128, 64]; name the full width too, or it is not trained.", ge=1
    )
    weights: tuple[float, ...] | None = option(None, ge=0, help="Weight of each of dims, in the same order; None is 1 each.")
    n_dims_per_step: int | None = option(None, ge=1, help="Draw so many of dims at each step, to save time; None takes all.")
    normalize: bool = option(
        False,
        help="Scale each prefix to length 1 first, as sentence-transformers does. Changes nothing under cosine; distances and dot differ.",
    )

    def __post_init__(self) -> None:
        if not self.dims or len(set(self.dims)) < len(self.dims):
            raise ConfigError(Problem("dims", f"must name at least one dimension and none twice; found {list(self.dims)}"))
        if self.weights is not None and len(self.weights) != len(self.dims):
            raise ConfigError(Problem("weights", f"has {len(self.weights)} entries for {len(self.dims)} dims; give one for each or none"))

    def plan(self, ctx: StepContext) -> list[tuple[int, float]]:
        """(dimension, weight) of this step, widest first; the draw is the same on all processes."""
        both = sorted(zip(self.dims, self.weights or [1.0] * len(self.dims), strict=True), reverse=True)
        if self.n_dims_per_step is None or self.n_dims_per_step >= len(both):
            return both
        drawn = torch.randperm(len(both), generator=ctx.generator("matryoshka"))[: self.n_dims_per_step]
        return [both[i] for i in sorted(drawn.tolist())]

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        return LossOutput.combine({f"dim_{d}": (w, self.loss(self._cut(batch, d), ctx)) for d, w in self.plan(ctx)})

    def _cut(self, batch: RepBatch, dim: int) -> RepBatch:
        cut = batch.map_reps(truncate(dim))
        return cut.map_reps(normalize) if self.normalize else cut


@LOSSES.register("sum")
@dataclass(frozen=True)
class SumLoss(Loss):
    """Several losses on the same batch, weighted; each is logged as loss/NAME.

        L = sum over terms k of w_k L_k

    Coupling: the tightest of the terms; batch, when they are means over different things (Loss.counts). Formats: those that all terms
    can be trained on.
    """

    coupling: ClassVar[str] = "inherit"
    kinds: ClassVar[tuple[str, ...]] = ("dense", "sparse", "cross_encoder")
    wraps: ClassVar[tuple[str, ...]] = ("terms",)

    terms: Mapping[str, Term] = option(help="Name of the term -> {loss: {name: ...}, weight: 1.0}.")

    def __post_init__(self) -> None:
        if not self.terms:
            raise ConfigError(Problem("terms", "must hold at least one term, like {main: {loss: {name: mnrl}, weight: 1.0}}"))

    def effective_coupling(self) -> str:
        return "batch" if counts_differ(loss.counts for loss in innermost(self)) else super().effective_coupling()

    def __call__(self, batch: Any, ctx: StepContext) -> LossOutput:
        return LossOutput.combine({name: (term.weight, term.loss(batch, ctx)) for name, term in self.terms.items()})


def innermost(loss: Loss) -> Iterator[Loss]:
    """The losses inside wrappers, or the loss itself."""
    inner = loss.inner()
    if not inner:
        yield loss
    for part in inner:
        yield from innermost(part)
