"""Small modules that losses learn: they hold parameters, the formulas stay in the losses."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stpipe.ops.convert import full_precision, upcast

MAX_SCALE = 100.0


class LearnedScale(nn.Module):
    """An inverse temperature t = min(exp(w), 100) with w = log(start) at first. Without the bound it runs away (arXiv:2103.00020 section 2.5)."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor([math.log(start)]))  # not 0-d: FSDP2 cuts parameters along a dimension

    def forward(self) -> Tensor:
        """0-d scale."""
        return self.log_scale.exp().clamp(max=MAX_SCALE).squeeze(0)


class PrefixLinear(nn.Linear):
    """A layer for inputs (N, blocks * d) that may be narrower than its own (blocks * D).

    Each of the equally wide blocks of the input meets the first d weights of its block: one layer serves all prefixes of an
    embedding (the weight tying of arXiv:2205.13147 section 3, "MRL-E"). It is called as a module, because parameters that are cut over
    processes are put together around the forward of the module that owns them.
    """

    def forward(self, x: Tensor, blocks: int = 1) -> Tensor:
        """(N, C) outputs in at least fp32."""
        width = x.shape[-1] // blocks
        weight = self.weight.unflatten(1, (blocks, -1))[..., :width].flatten(1)
        with full_precision(x):
            x = upcast(x)
            return F.linear(x, weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
