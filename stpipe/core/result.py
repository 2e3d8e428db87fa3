"""What a loss returns: a sum and what it is divided by, so that only the engine normalises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossOutput:
    """sum and count are 0-d tensors; the loss is sum / count, both added up over micro-batches and processes first.

    terms: name -> detached 0-d value of a component, for logging; metrics: name -> detached 0-d value to be averaged.
    """

    sum: Tensor
    count: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def mean(self) -> Tensor:
        return self.sum / self.count.clamp(min=1)

    @staticmethod
    def per_row(values: Tensor, keep: Tensor | None = None) -> LossOutput:
        """One value a row (N,), averaged over rows; rows where `keep` is False do not count."""
        if keep is None:
            return LossOutput(values.sum(), torch.full((), values.numel(), dtype=torch.float32, device=values.device))
        return LossOutput(torch.where(keep, values, 0).sum(), keep.sum().float())

    @staticmethod
    def whole(value: Tensor) -> LossOutput:
        """A value of the batch as a whole, which no number of rows divides."""
        return LossOutput(value, torch.ones((), dtype=torch.float32, device=value.device))

    @staticmethod
    def combine(parts: Mapping[str, tuple[float | Tensor, LossOutput]]) -> LossOutput:
        """Weighted sum of several means over the same rows; each part is also logged by name.

        The result counts as many rows as its first part: means with different counts are brought to that count, which
        is exact for one batch and keeps the weights exact when batches are added up.
        """
        first = next(iter(parts.values()))[1]
        total = sum((weight * part.mean for weight, part in parts.values()), start=torch.zeros_like(first.sum))
        terms: dict[str, Tensor] = {}
        for name, (_, part) in parts.items():
            terms[name] = part.mean.detach()
            terms.update({f"{name}/{inner}": value for inner, value in part.terms.items()})
        metrics = {k: v for _, part in parts.values() for k, v in part.metrics.items()}
        return LossOutput(total * first.count.clamp(min=1), first.count, terms, metrics)
