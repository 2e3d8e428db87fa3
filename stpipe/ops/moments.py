"""How evenly embeddings fill their space: moments of the similarity of two of them, without the matrix of all pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from stpipe.ops.convert import full_precision, upcast


def pair_moments(x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """0-d mean and mean square of x_i . x_j over all pairs i != j of the kept rows; 0 with fewer than two of them.

        sum over i != j of x_i . x_j = |sum_i x_i|^2 - sum_i |x_i|^2
        sum over i != j of (x_i . x_j)^2 = |X^T X|_F^2 - sum_i |x_i|^4,   and |X^T X|_F = |X X^T|_F, the smaller of which is made

    Args:
        x: (M, D).
        keep: (M,) bool.
    """
    with full_precision(x):
        x = torch.where(keep[:, None], upcast(x), 0)
        lengths = x.square().sum(1)
        gram = x.T @ x if x.shape[1] < x.shape[0] else x @ x.T
        pairs = (keep.sum() * (keep.sum() - 1)).clamp(min=1)
        return (x.sum(0).square().sum() - lengths.sum()) / pairs, (gram.square().sum() - lengths.square().sum()) / pairs
