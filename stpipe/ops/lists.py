"""Lists of candidates that compete for the ranks of one query: orders, ranks, gains, discounts, likelihood of an order.

Shape legend: B rows (queries), K candidates of the longest row. `mask` (B, K) bool says which candidates are real. Nothing here
indexes by a mask, so a GPU never waits.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: 2^y of larger grades would leave the range of fp32.
LARGEST_EXPONENT = 64.0


def pairs(mask: Tensor) -> Tensor:
    """(B, K, K) bool: both candidates are real."""
    return mask[:, :, None] & mask[:, None, :]


def differences(x: Tensor) -> Tensor:
    """(B, K, K) x_i - x_j at [b, i, j]."""
    return x[:, :, None] - x[:, None, :]


def best_first(score: Tensor, grades: Tensor, mask: Tensor) -> Tensor:
    """(B, K) int64: the candidates from the best score to the worst, padding last.

    Of equal scores the one of the lesser grade stands first, so that a tie never counts as the right order; what is equal in both
    keeps the order of the data. Scores of low precision tie often.
    """
    lesser_first = grades.masked_fill(~mask, torch.inf).argsort(dim=1, stable=True)
    score = score.detach().masked_fill(~mask, -torch.inf).gather(1, lesser_first)
    return lesser_first.gather(1, score.argsort(dim=1, descending=True, stable=True))


def grades_first(grades: Tensor, mask: Tensor) -> Tensor:
    """(B, K) int64: the candidates from the greatest grade to the least, equal ones in the order of the data, padding last."""
    return grades.masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)


def discounts(count: int, like: Tensor) -> Tensor:
    """(K,) D_r = log2(1 + r) of the ranks r = 1, ..., count."""
    return torch.log2(1 + torch.arange(1, count + 1, device=like.device, dtype=like.dtype))


def gains(grades: Tensor, mask: Tensor, *, k: int | None = None, eps: float = 1e-10) -> Tensor:
    """(B, K) G_i = (2^y_i - 1) / max(eps, DCG@k of the best order), 0 at padding; grades below 0 gain as much as 0.

    Args:
        grades: (B, K) y; anything at padding.
        k: ranks that count, None counts all.
        eps: least value of the divisor, for rows in which nothing is relevant.
    """
    y = grades.masked_fill(~mask, 0).clamp(min=0)
    # One factor for gain and divisor: it cancels, but keeps large grades finite.
    shift = (y.amax(1, keepdim=True) - LARGEST_EXPONENT).clamp(min=0)
    raw = torch.exp2(y - shift) - torch.exp2(-shift)
    best = raw.sort(dim=1, descending=True).values / discounts(y.shape[1], y)
    return raw / best[:, :k].sum(1, keepdim=True).clamp(min=eps)


def mean_ranks(grades: Tensor, mask: Tensor) -> Tensor:
    """(B, K) rank of each candidate by its grade, from 1 for the greatest; equal grades share the mean of their ranks. 0.5 at padding."""
    both = pairs(mask)
    y = grades.masked_fill(~mask, 0)
    greater = ((y[:, None, :] > y[:, :, None]) & both).sum(2)
    equal = ((y[:, None, :] == y[:, :, None]) & both).sum(2)
    return greater + (equal + 1) / 2


def soft_ranks(score: Tensor, mask: Tensor, *, alpha: float = 1.0) -> Tensor:
    """(B, K) 1 + sum over other candidates j of sigmoid(alpha (s_j - s_i)): the rank of each candidate, with gradient.

    "ApproxRank" of Qin, Liu and Li, A general approximation framework for direct optimization of information retrieval measures.
    """
    others = pairs(mask) & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    ahead = torch.sigmoid(-alpha * differences(score))
    return 1 + torch.where(others, ahead, 0).sum(2)


def log_picks(score: Tensor, mask: Tensor) -> Tensor:
    """(B, K) log probability that each candidate is picked before all that follow it: s_i - log sum over j >= i of exp(s_j); 0 at padding.

    The sum of a row is the log likelihood of its order in the model of Plackett and Luce.

    Args:
        score: (B, K) in the order whose likelihood is asked for.
        mask: (B, K) real candidates, which stand first in each row.
    """
    rank = torch.arange(mask.shape[1], device=mask.device)
    own, later = rank[:, None] == rank[None, :], rank[:, None] < rank[None, :]
    left = own | (later & mask[:, None, :])
    rest = torch.logsumexp(score[:, None, :].masked_fill(~left, -torch.inf), dim=2)
    return (score - rest).masked_fill(~mask, 0)


def halving_weights(mask: Tensor, like: Tensor) -> Tensor:
    """(B, K) (2^(n - r) - 1) / sum of the same over the ranks r = 1, ..., n of a list of n; all 0 for a list of one."""
    n = mask.sum(1, keepdim=True).to(like.dtype)
    rank = torch.arange(1, mask.shape[1] + 1, device=mask.device, dtype=like.dtype)
    # Divided by 2^n, which cancels: no list is too long.
    return _shares(torch.exp2(-rank) - torch.exp2(-n), mask)


def logarithmic_weights(mask: Tensor, like: Tensor) -> Tensor:
    """(B, K) 1 / log(1 + r) over the sum of the same over the ranks r = 1, ..., n of a list of n."""
    rank = torch.arange(1, mask.shape[1] + 1, device=mask.device, dtype=like.dtype)
    return _shares((1 / torch.log1p(rank)).expand(mask.shape), mask)


def _shares(weight: Tensor, mask: Tensor) -> Tensor:
    """(B, K) each weight over the sum of its row, 0 at padding."""
    weight = weight.masked_fill(~mask, 0)
    return weight / weight.sum(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
