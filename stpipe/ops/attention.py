"""Attention over packed texts: one row of tokens, each text attends to itself only.

transformers models reach this function through its attention registry under the name `stpipe_packed`. The row has
restarting position ids; which tokens belong together is said by the keyword `packing`, which every model that follows
the registry's calling convention hands through to the function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NAME = "stpipe_packed"


@dataclass(frozen=True, slots=True)
class Run:
    """`count` neighbouring texts of `length` tokens each, the first one starting at token `start`."""

    start: int
    count: int
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.count * self.length


@dataclass(frozen=True, slots=True)
class Packing:
    """How a row of tokens falls into texts: runs of equal length, and cumulative lengths (N + 1,) int32 for GPU kernels.

    windows: when given, every layer notes the sliding window that it asked for (None = all tokens); the self-check reads it.
    """

    runs: tuple[Run, ...]
    starts: Tensor
    longest: int
    windows: list[int | None] | None = None

    @staticmethod
    def of(lengths: Tensor, device: torch.device, *, windows: list[int | None] | None = None) -> Packing:
        """From the lengths (N,) int64 on the CPU of the texts in the row."""
        values, counts = torch.unique_consecutive(lengths, return_counts=True)
        runs, start = [], 0
        for length, count in zip(values.tolist(), counts.tolist(), strict=True):
            runs.append(Run(start, count, length))
            start += length * count
        starts = torch.zeros(lengths.numel() + 1, dtype=torch.int32)
        starts[1:] = lengths.cumsum(0)
        return Packing(tuple(runs), starts.to(device, non_blocking=True), int(lengths.max()), windows)


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query (1, H, T, d), key and value (1, G, T, d) -> ((1, T, H, d), None), texts kept apart."""
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    if packing.windows is not None:
        packing.windows.append(sliding_window)
    parts = []
    for run in packing.runs:
        q, k, v = (x[0, :, run.start : run.stop].unflatten(1, (run.count, run.length)).transpose(0, 1) for x in (query, key, value))
        y = scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=causal, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
        )
        parts.append(y.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)[None], None
