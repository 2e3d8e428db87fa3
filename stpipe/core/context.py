"""What a loss may know about the moment: the step, and random numbers that are the same on every process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


def derive_seed(*parts: int) -> int:
    """A 63-bit seed that depends on all parts and on nothing else (splitmix64 over the parts)."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state ^ (part & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 27
        state = (state + 0x94D049BB133111EB) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


@dataclass(frozen=True, slots=True)
class StepContext:
    """step: optimiser steps done; num_steps: all steps of the run (0 when unknown); micro: batch within the step;
    seed: trainer.seed; rank: of this process; factors: metric -> 0-d multiplier of the weight that steers it (set by controllers);
    texts: of this batch that forwards before took, so that no two of its forwards draw the same dropout;
    learned: loss -> the module of what it learns itself (losses/objective.py)."""

    step: int = 0
    num_steps: int = 0
    micro: int = 0
    seed: int = 0
    rank: int = 0
    factors: Mapping[str, Tensor] = field(default_factory=dict)
    texts: int = 0
    learned: Mapping[Any, nn.Module] = field(default_factory=dict)

    def generator(self, stream: str) -> torch.Generator:
        """CPU generator for one named use; equal on all ranks, so that e.g. all draw the same Matryoshka dimensions."""
        return torch.Generator().manual_seed(derive_seed(self.seed, self.step, self.micro, *stream.encode()))

    def forward_seed(self, part: int) -> int:
        """Seed of the dropout of one micro-batch; differs between ranks, so that replicas do not repeat each other."""
        return derive_seed(self.seed, self.step, self.micro, self.rank, part, 0xD20)
