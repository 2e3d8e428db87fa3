"""How many terms sparse representations use, as a number to minimise, and how many they do use.

Every function takes the texts as parts, one tensor (N_k, V) a role, and treats them as one set of N rows, without a copy of
them: the sums over rows are all that is needed. Values are those of a lexical representation, at least 0 (no absolute value
is taken). No rows at all give 0. All of it is done in at least fp32, also under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Literal

import torch
from torch import Tensor

from stpipe.ops.convert import full_precision, upcast

RegularizerName = Literal["flops", "l1"]


def active(values: Tensor) -> Tensor:
    """(N,) int64 number of non-zero terms of each row of (N, V)."""
    return (values != 0).sum(-1)


def mean_active(parts: Sequence[Tensor]) -> Tensor:
    """0-d mean number of non-zero terms a row, without gradient; fp32."""
    with torch.no_grad():
        return reduce(add, [active(p).sum() for p in parts]).float() / _num_rows(parts)


def flops(parts: Sequence[Tensor], *, threshold: int | None = None) -> Tensor:
    """0-d sum over terms v of (mean over rows n of w_nv)^2.

    Proportional to the multiplications that scoring a text against an inverted index of such texts takes on average, where
    w stands in for the probability that a term is used. Source: arXiv:2004.05665 (the relaxed FLOPs); SPLADE, arXiv:2107.05720 eq. 4.

    Args:
        parts: (N_k, V) each.
        threshold: rows with at most so many non-zero terms count as rows of zeros, so that texts that are sparse enough feel
            nothing (arXiv:2504.14839, "l0 mask"). None: every row counts.
    """
    total = reduce(add, [_column_sums(p, threshold) for p in parts])
    return (total / _num_rows(parts)).square().sum()


def l1(parts: Sequence[Tensor], *, threshold: int | None = None) -> Tensor:
    """0-d mean over rows n of sum over terms v of w_nv; `threshold` as in `flops`."""
    totals = [torch.where(_kept(p, threshold), upcast(p).sum(-1), 0).sum() for p in parts]
    return reduce(add, totals) / _num_rows(parts)


REGULARIZERS = {"flops": flops, "l1": l1}


def _num_rows(parts: Sequence[Tensor]) -> int:
    return max(sum(p.shape[0] for p in parts), 1)


def _kept(values: Tensor, threshold: int | None) -> Tensor:
    """(N,) bool: the rows that count."""
    return torch.ones_like(values[:, 0], dtype=torch.bool) if threshold is None else active(values) > threshold


def _column_sums(values: Tensor, threshold: int | None) -> Tensor:
    """(V,) sum of the rows that count; with a threshold a product with the mask, which needs no masked copy."""
    values = upcast(values)
    if threshold is None:
        return values.sum(0)
    with full_precision(values):
        return _kept(values, threshold).to(values.dtype) @ values
