"""What a loss returns: a sum and what it is divided by, so that only the engine normalises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)  # no slots: ZeRO-3 looks with vars() for the tensors of what a module returns
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

    def detach(self) -> LossOutput:
        """The same values without the graph."""
        return LossOutput(self.sum.detach(), self.count, self.terms, self.metrics)

    def scaled(self, factor: float) -> LossOutput:
        """Sum and count times a factor, so that the mean stays."""
        return LossOutput(self.sum * factor, self.count * factor, self.terms, self.metrics)

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
    def merge(parts: Sequence[LossOutput], rows: Sequence[int]) -> LossOutput:
        """Parts of a batch as one: sums and counts add up; logged values are means over all that the parts count, metrics over rows.

        Args:
            parts: outputs of one loss on disjoint rows.
            rows: number of rows of each part.
        """
        counts = torch.stack([p.count for p in parts])
        shares = counts / counts.sum().clamp(min=1)
        terms = {k: (torch.stack([p.terms[k] for p in parts]) * shares).sum() for k in parts[0].terms}
        of_rows = counts.new_tensor(rows) / max(sum(rows), 1)
        metrics = {k: (torch.stack([p.metrics[k] for p in parts]) * of_rows).sum() for k in parts[0].metrics}
        return LossOutput(torch.stack([p.sum for p in parts]).sum(), counts.sum(), terms, metrics)

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
