"""A loss together with what it learns itself, as the module that is trained, saved and resumed beside the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from stpipe.core.context import StepContext, derive_seed
from stpipe.core.result import LossOutput
from stpipe.losses.base import Loss, ModelFacts


class Objective(nn.Module):
    """The objective of one data set. Formulas stay pure functions: what they learn is handed to them in `ctx.learned`.

    Parameters are called `learned.CLASS.NAME`, such as `learned.SoftmaxLoss.weight`; a second loss of a class has `CLASS_2`. Losses
    that are equal in all their options share what they learn: a classifier is one whether it is applied to the last layer or to
    an earlier one, to the whole embedding or to a prefix.

    Args:
        loss: the objective; `self.loss` is the same with what it derives from the model.
        model: the model that it is to train.
        seed: start values depend on it and on nothing else.
    """

    def __init__(self, loss: Loss, model: ModelFacts, *, seed: int) -> None:
        super().__init__()
        self.loss = loss.for_model(model)
        self.learned = nn.ModuleDict()
        self.keys: list[Loss] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, 0x0B1EC))
            for part in parts_of(self.loss):
                if part in self.keys:
                    continue
                made = part.learned(model)
                if made is not None:
                    same = sum(type(key) is type(part) for key in self.keys)
                    self.learned[type(part).__name__ + (f"_{same + 1}" if same else "")] = made
                    self.keys.append(part)

    def context(self, ctx: StepContext) -> StepContext:
        """The same moment with what is learned."""
        return replace(ctx, learned=dict(zip(self.keys, self.learned.values(), strict=True)))

    def forward(self, batch: Any, ctx: StepContext) -> LossOutput:
        return self.loss(batch, self.context(ctx))


def parts_of(loss: Loss) -> Iterator[Loss]:
    """The loss and all losses inside, from the outside in."""
    yield loss
    for part in loss.inner():
        yield from parts_of(part)
