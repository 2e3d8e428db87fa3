"""Dropout with cheap random numbers for the CPU.

torch draws one Bernoulli number an element, at 6 ns each on one core; under training that was a tenth of the step. Here
an element costs one random byte (0.4 ns). A byte alone can only give probabilities of k/256, so the rest is added by
random marks: the number of marks is Poisson, hence every element is marked independently with the same probability,
and both together give exactly p, independently for each element.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def drop_bytes(count: int, p: float) -> tuple[Tensor, int]:
    """Random bytes (count,) uint8 on the CPU and a threshold: an element is dropped where its byte is below the threshold.

    Drawn from torch's global CPU generator. 0 < p < 1.
    """
    threshold = int(p * 256)
    if threshold:
        words = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None)  # to=None: all 64 bits
        values = words.view(torch.uint8)[:count]
    else:
        values = torch.ones(count, dtype=torch.uint8)
    rest = (p - threshold / 256) / (1 - threshold / 256)
    if rest > 0:
        expected = -math.log1p(-rest) * count
        marks = int(torch.poisson(torch.tensor(expected, dtype=torch.float64)))
        values[torch.randint(count, (marks,))] = 0
    return values, max(threshold, 1)


class DropoutFunction(torch.autograd.Function):
    """x * keep / (1 - p); saves one byte an element for the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        values, ctx.threshold = drop_bytes(x.numel(), p)
        ctx.scale = 1 / (1 - p)
        ctx.save_for_backward(values)
        return scaled_keep(x, values, ctx.threshold, ctx.scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (values,) = ctx.saved_tensors
        return scaled_keep(grad, values, ctx.threshold, ctx.scale), None


def scaled_keep(x: Tensor, values: Tensor, threshold: int, scale: float) -> Tensor:
    """x with the dropped elements zero and the others scaled. Comparing into a float tensor is the fast way to a mask."""
    out = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(values.view(x.shape), threshold, out=out)
    return out.mul_(x).mul_(scale)


class Dropout(nn.Dropout):
    """nn.Dropout, with cheap random numbers where the CPU trains."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not 0 < self.p < 1 or self.inplace or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        return DropoutFunction.apply(x, self.p)


def use_cheap_dropout(model: nn.Module) -> None:
    """Replace every nn.Dropout among the submodules of a model; nothing that is saved or loaded changes."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p, child.inplace).train(child.training))
