"""Exponential moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Keeps average <- decay * average + (1 - decay) * weight after each step, in fp32 beside the weights.

    Args:
        module: whose trainable parameters are averaged.
        decay: share of the old average; early on (1 + n) / (10 + n) is used when it is smaller, so that the start fades.
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self._weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._average = {name: p.detach().clone() for name, p in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after an optimiser step."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(list(self._average.values()), [p.detach() for p in self._weights.values()], 1 - decay)
        self.num_updates += 1

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the module has the averaged weights (evaluation, saving)."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def apply(self) -> None:
        """Leave the module with the averaged weights for good."""
        self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, weight in self._weights.items():
            held = weight.detach().clone()
            weight.copy_(self._average[name])
            self._average[name] = held

    def state_dict(self) -> dict[str, Tensor]:
        return {**self._average, "num_updates": torch.tensor(self.num_updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.num_updates = int(state["num_updates"])
        for name, average in self._average.items():
            average.copy_(state[name])
