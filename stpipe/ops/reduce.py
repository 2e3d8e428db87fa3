"""Reductions over the entries that a mask keeps, at fixed shapes, so that no mask has to reach the host."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_max(x: Tensor, keep: Tensor, dim: int | None = None) -> Tensor:
    """Largest kept entry, -inf where nothing is kept; equal largest entries share the gradient."""
    x = x.masked_fill(~keep, -torch.inf)
    return x.amax() if dim is None else x.amax(dim)


def masked_min(x: Tensor, keep: Tensor, dim: int | None = None) -> Tensor:
    """Smallest kept entry, +inf where nothing is kept; equal smallest entries share the gradient."""
    x = x.masked_fill(~keep, torch.inf)
    return x.amin() if dim is None else x.amin(dim)


def masked_sum(x: Tensor, keep: Tensor) -> Tensor:
    """0-d sum of the kept entries; what is not kept may be inf or nan."""
    return torch.where(keep, x, torch.zeros_like(x)).sum()


def masked_mean(x: Tensor, keep: Tensor) -> Tensor:
    """0-d mean of the kept entries, 0 when nothing is kept."""
    return masked_sum(x, keep) / keep.sum().clamp(min=1)


def log_one_plus_sum_exp(x: Tensor) -> Tensor:
    """0-d log(1 + sum_i exp(x_i)) without overflow."""
    return torch.logsumexp(torch.cat([x.new_zeros(1), x]), dim=0)


def hinge_sums(threshold: Tensor, value: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """For each threshold t_ij: sum and number of the hinges max(0, t_ij - v_ik) over the kept k of the same row.

    Args:
        threshold, value, keep: (B, P) each; keep says which values take part.

    Returns:
        (B, P) sums with gradient, and (B, P) int64 numbers of hinges above zero. The hinges of a row are t minus a prefix of
        the sorted values, so this takes O(B P log P) time and O(B P) memory, where spelling them out takes P times more.
    """
    centre = value.detach().mean(1, keepdim=True)  # sums of differences from a centre lose fewer digits
    ordered = (value - centre).masked_fill(~keep, torch.inf).sort(dim=1).values
    limit = threshold - centre
    number = torch.searchsorted(ordered.detach().contiguous(), limit.detach().contiguous())
    finite = torch.where(ordered.isfinite(), ordered, torch.zeros_like(ordered))
    prefix = torch.cat([torch.zeros_like(finite[:, :1]), finite.cumsum(1)], dim=1)
    return number * limit - prefix.gather(1, number), number
