"""Reductions over the texts of a flat row of tokens. Shapes as in core/tokens.py: (T, D) tokens of N texts -> (N, D)."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values: Tensor, lengths: Tensor) -> Tensor:
    """Sum over the tokens of each text, accumulated in float32 for half precision; deterministic on CPU and GPU.

    values (T, D); lengths (N,) int64 on any device. Returns (N, D) in the accumulation type.
    """
    wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    return torch.segment_reduce(wide, "sum", lengths=lengths.to(values.device), axis=0, unsafe=True)


def segment_max(values: Tensor, lengths: Tensor) -> Tensor:
    """Largest value over the tokens of each text; -inf where a text has no token that counts. (N, D), dtype of values."""
    wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    out = torch.segment_reduce(wide, "max", lengths=lengths.to(values.device), axis=0, unsafe=True)
    return out.to(values.dtype)
