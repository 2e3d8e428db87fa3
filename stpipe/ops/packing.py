"""How a row of tokens falls into texts.

Shapes: N texts, T tokens of all of them, D width of a hidden state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
    """How a row of tokens falls into texts, in the forms that the kernels want; made once for all layers.

    runs: texts of equal length together; starts (N + 1,) int32: cumulative lengths; places (T,) int64: where each token
    lies when the texts are padded to (N, longest) and laid end to end; both are on the device of the tokens.
    windows: when given, every layer notes the sliding window that it asked for (None = all tokens); the self-check reads it.
    picked (N,) int64: the token of each text that the last layer is computed for, whole (1, T, D): what goes into that layer; see
    ops/picked_attention.py.
    """

    runs: tuple[Run, ...]
    starts: Tensor
    places: Tensor
    longest: int
    windows: list[int | None] | None = None
    picked: Tensor | None = None
    whole: Tensor | None = None

    @staticmethod
    def of(lengths: Tensor, device: torch.device, *, windows: list[int | None] | None = None) -> Packing:
        """From the lengths (N,) int64 on the CPU of the texts in the row. Equal lengths should be neighbours."""
        values, counts = torch.unique_consecutive(lengths, return_counts=True)
        runs, start = [], 0
        for length, count in zip(values.tolist(), counts.tolist(), strict=True):
            runs.append(Run(start, count, length))
            start += length * count
        starts = torch.zeros(lengths.numel() + 1, dtype=torch.int32)
        starts[1:] = lengths.cumsum(0)
        longest = int(lengths.max())
        shifts = torch.arange(lengths.numel()) * longest - starts[:-1]
        places = torch.arange(int(starts[-1])) + torch.repeat_interleave(shifts, lengths)
        return Packing(tuple(runs), starts.to(device, non_blocking=True), places.to(device, non_blocking=True), longest, windows)
