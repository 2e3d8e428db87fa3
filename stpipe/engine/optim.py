"""Optimisers and parameter groups."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.fields import option
from stpipe.config.registry import OPTIMIZERS


@dataclass(frozen=True)
class ParameterGroup:
    """What differs for the parameters that a pattern matches. Later groups win."""

    match: str = option(
        help="Regular expression, searched in each parameter's name (0.auto_model.encoder.layer.0...) and in its class path (Transformer.BertModel...Linear.weight)."
    )
    lr: float | None = option(None, ge=0, help="Learning rate; None is the optimiser's.")
    weight_decay: float | None = option(None, ge=0, help="Weight decay; None is the optimiser's (0 for biases and norms).")
    freeze: bool = option(False, help="Do not train these parameters.")


@OPTIMIZERS.register("adamw", aliases=("AdamW", "adamw_torch", "adamw_torch_fused"))
@dataclass(frozen=True)
class AdamW:
    """AdamW (arXiv:1711.05101) with fused kernels; weight decay spares biases and norms."""

    lr: float = option(2e-5, ge=0, help="Peak learning rate.")
    weight_decay: float = option(0.0, ge=0, help="Decoupled weight decay of matrices and embeddings.")
    beta1: float = option(0.9, ge=0, lt=1, help="Decay of the first moment.")
    beta2: float = option(0.999, ge=0, lt=1, help="Decay of the second moment.")
    eps: float = option(1e-8, gt=0, help="Added to the root of the second moment.")
    groups: Mapping[str, ParameterGroup] = option(help="Named groups of parameters with settings of their own.", factory=dict)

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Optimiser over the trainable parameters of `model`; freezes what the groups say is frozen.

        Each group keeps its peak rate under `base_lr`; the loop multiplies it by the schedule's factor.
        """
        groups = parameter_groups(model, self.groups, lr=self.lr, weight_decay=self.weight_decay)
        fused = all(p.device.type in ("cpu", "cuda", "mps") for g in groups for p in g["params"])
        return torch.optim.AdamW(groups, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, fused=fused)


def class_paths(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    """(name, class path, parameter) of every parameter: the same path with each module's class in place of its name."""
    classes = {name: type(module).__name__ for name, module in model.named_modules()}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        owners = [".".join(parts[:i]) for i in range(1, len(parts))]
        yield name, ".".join([*(classes[o] for o in owners), parts[-1]]), parameter


def parameter_groups(model: nn.Module, overrides: Mapping[str, ParameterGroup], *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for a torch optimiser. A pattern that matches no parameter is an error that shows names to match."""
    named = list(class_paths(model))
    problems = []
    for key, group in overrides.items():
        if not any(_matches(group.match, name, path) for name, path, _ in named):
            shown = "; ".join(f"{name} ({path})" for name, path, _ in named[:3] + named[-3:])
            problems.append(
                Problem(f"optimizer.groups.{key}.match", f"'{group.match}' matches no parameter. Parameters are, for example: {shown}")
            )
    if problems:
        raise ConfigError(problems)
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, path, parameter in named:
        rate, decay, frozen = lr, (weight_decay if parameter.ndim > 1 else 0.0), False
        for group in overrides.values():
            if _matches(group.match, name, path):
                frozen = group.freeze
                rate = rate if group.lr is None else group.lr
                decay = decay if group.weight_decay is None else group.weight_decay
        parameter.requires_grad_(parameter.requires_grad and not frozen)  # what the model itself keeps fixed stays so
        if parameter.requires_grad:
            found.setdefault((rate, decay), []).append(parameter)
    if not found:
        raise ConfigError(Problem("optimizer.groups", "every parameter is frozen, so there is nothing to train"))
    return [{"params": params, "lr": rate, "base_lr": rate, "weight_decay": decay} for (rate, decay), params in found.items()]


def _matches(pattern: str, name: str, path: str) -> bool:
    return re.search(pattern, name) is not None or re.search(pattern, path) is not None
