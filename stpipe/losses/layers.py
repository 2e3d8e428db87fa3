"""Losses for models that may be cut: after some of their layers, and to some of their dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.fields import option
from stpipe.config.registry import LOSSES
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses import citations
from stpipe.losses.base import Loss, ModelFacts
from stpipe.losses.wrappers import MatryoshkaLoss
from stpipe.ops.convert import upcast


@LOSSES.register("adaptive_layer", aliases=("AdaptiveLayerLoss",))
@dataclass(frozen=True, kw_only=True)
class AdaptiveLayerLoss(Loss):
    """The inner loss on the embeddings that earlier layers would give, too, and these made like those of the last layer.

        L = w_last L_inner(x) + sum over drawn layers l of ( w_prior c_l / n L_inner(x_l) + w_kl T KL_l ),
        KL_l = mean over texts i of KL(softmax of x_i / T || softmax of x_li / T)

    x_l is the embedding that the modules after the backbone make of the token vectors of layer l (0: before the first layer), n the number of
    layers of a step, c_l = 1 (uniform), 1 / (1 + log(1 + l)) (log) or 1 / (1 + l) (linear). The last layer is a fixed target of the KL.
    The layers of a step are drawn before the forward, the same on all processes. Logged: last, layer_L, layer_L_kl, before weighting.
    Source: arXiv:2402.14776 section 3 (uniform); log weighting is that of its later version, ESE. Coupling: that of the inner loss.
    """

    coupling: ClassVar[str] = "inherit"
    wraps: ClassVar[tuple[str, ...]] = ("loss",)
    citation: ClassVar[str] = citations.MATRYOSHKA_2D

    loss: Loss = option(help="The loss to apply to the last layer and to earlier ones.", component="loss")
    layers: tuple[int, ...] | None = option(
        None, ge=0, help="Layers to draw from; 0 is what enters the first layer. None: all but the last one of the model."
    )
    n_layers_per_step: int | None = option(1, ge=1, help="Draw so many layers at each step; None takes all.")
    last_layer_weight: float = option(1.0, ge=0, help="Weight of the loss of the last layer.")
    prior_layers_weight: float = option(1.0, ge=0, help="Weight of the mean loss of the earlier layers.")
    kl_div_weight: float = option(1.0, ge=0, help="Weight of the divergence from the last layer; 0 leaves it out.")
    kl_temperature: float = option(0.3, ge=0, help="Divides embeddings before the softmax of the divergence; 0 leaves it out.")
    layer_weighting: Literal["uniform", "log", "linear"] = option(
        "uniform", help="Whether later layers count as much as earlier ones, or less."
    )

    def __post_init__(self) -> None:
        if self.layers is not None and (not self.layers or len(set(self.layers)) < len(self.layers)):
            raise ConfigError(Problem("layers", f"must name at least one layer and none twice; found {list(self.layers)}"))

    def for_model(self, model: ModelFacts) -> Loss:
        if model.num_layers < 1:
            raise ConfigError(Problem("loss.name", f"'{LOSSES.name_of(type(self))}' needs a model with layers, a transformer"))
        layers = self.layers or tuple(range(model.num_layers))
        if max(layers) >= model.num_layers:
            raise ConfigError(
                Problem(
                    "loss.layers", f"{max(layers)} is no earlier layer: the model has {model.num_layers}, so 0 to {model.num_layers - 1}"
                )
            )
        return replace(self, layers=layers, loss=self.loss.for_model(model))

    def plan(self, ctx: StepContext) -> list[int]:
        """Layers of this step in order; the draw is the same on all processes."""
        if self.layers is None:
            raise ConfigError(
                "adaptive_layer does not know the layers of the model: call for_model(ModelFacts(...)) first, or set `layers`"
            )
        layers = sorted(self.layers)
        if self.n_layers_per_step is None or self.n_layers_per_step >= len(layers):
            return layers
        drawn = torch.randperm(len(layers), generator=ctx.generator("adaptive_layer"))[: self.n_layers_per_step]
        return sorted(layers[i] for i in drawn.tolist())

    def outputs(self, ctx: StepContext) -> frozenset[str]:
        return super().outputs(ctx) | {f"layer_{layer}" for layer in self.plan(ctx)}

    def objective(self) -> Loss:
        """The loss of each layer."""
        return self.loss

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        layers, inner = self.plan(ctx), self.objective()
        parts: dict[str, tuple[float | Tensor, LossOutput]] = {"last": (self.last_layer_weight, inner(batch, ctx))}
        for layer in layers:
            view = batch.view(f"layer_{layer}")
            parts[f"layer_{layer}"] = (self.prior_layers_weight * self.weight(layer) / len(layers), inner(view, ctx))
            if self.kl_div_weight and self.kl_temperature:
                divergence = torch.stack([self._divergence(view.local(role), batch.local(role)) for role in batch.columns])
                parts[f"layer_{layer}_kl"] = (self.kl_div_weight * self.kl_temperature, LossOutput.per_row(divergence.mean(0)))
        return LossOutput.combine(parts)

    def weight(self, layer: int) -> float:
        """Weight of an earlier layer among those of a step."""
        return {"uniform": 1.0, "log": 1 / (1 + math.log(1 + layer)), "linear": 1 / (1 + layer)}[self.layer_weighting]

    def _divergence(self, early: Tensor, last: Tensor) -> Tensor:
        """(B,) KL(softmax of last / T || softmax of early / T)."""
        log_p = torch.log_softmax(upcast(early) / self.kl_temperature, dim=-1)
        log_q = torch.log_softmax(upcast(last).detach() / self.kl_temperature, dim=-1)
        return (log_q.exp() * (log_q - log_p)).sum(-1)


@LOSSES.register("matryoshka_2d", aliases=("Matryoshka2dLoss",))
@dataclass(frozen=True, kw_only=True)
class Matryoshka2dLoss(AdaptiveLayerLoss):
    """`adaptive_layer` around `matryoshka`: the inner loss on prefixes of the embeddings of the last layer and of earlier ones.

        L as in `adaptive_layer`, with sum over dimensions d of w_d L_inner(x[:d]) in place of L_inner(x)

    Layers and dimensions of a step are drawn apart; the dimensions are the same for all layers of the step. The divergence is that of whole
    embeddings. Source: arXiv:2402.14776 section 3. Coupling: that of the inner loss.
    """

    dims: tuple[int, ...] = option(
        help="Lengths of the prefixes, like [384, 256, 128, 64]; name the full width too, or it is not trained.", ge=1
    )
    weights: tuple[float, ...] | None = option(None, ge=0, help="Weight of each of dims, in the same order; None is 1 each.")
    n_dims_per_step: int | None = option(1, ge=1, help="Draw so many of dims at each step; None takes all.")
    normalize: bool = option(
        False,
        help="Scale each prefix to length 1 first, as sentence-transformers does. Changes nothing under cosine; distances and dot differ.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.objective()  # says what is wrong with the dimensions

    def objective(self) -> Loss:
        return MatryoshkaLoss(
            loss=self.loss, dims=self.dims, weights=self.weights, n_dims_per_step=self.n_dims_per_step, normalize=self.normalize
        )

    def citations(self) -> tuple[str, ...]:
        return (self.citation, *self.objective().citations())
