"""Every loss of cross-encoders once more, as Python loops over queries and documents in float64.

A function takes `lists`, one entry a query: the 0-d scores of its documents, which carry gradient, and their labels as numbers.
It returns the summands of the mean that the loss is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Lists = Sequence[tuple[Sequence[Tensor], Sequence[float]]]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda z: z,
    "Sigmoid": lambda z: 1 / (1 + (-z).exp()),
    "Tanh": lambda z: 1 - 2 / (1 + (2 * z).exp()),
}


def mean(summands: Sequence[Tensor]) -> Tensor:
    """Mean of the summands, 0 when there are none."""
    return sum(summands, torch.zeros((), dtype=torch.float64)) / max(len(summands), 1)


def binary_cross_entropy(lists: Lists, *, pos_weight: float = 1.0) -> list[Tensor]:
    found = []
    for scores, labels in lists:
        for z, y in zip(scores, labels, strict=True):
            p = 1 / (1 + (-z).exp())
            found.append(-(pos_weight * y * p.log() + (1 - y) * (1 - p).log()))
    return found


def cross_entropy(rows: Sequence[tuple[Sequence[Tensor], float]], *, label_smoothing: float = 0.0) -> list[Tensor]:
    """rows: the outputs for one pair, one a class, and the pair's class."""
    found = []
    for outputs, label in rows:
        total = sum(z.exp() for z in outputs)
        value = torch.zeros((), dtype=torch.float64)
        for c, z in enumerate(outputs):
            target = label_smoothing / len(outputs) + (1 - label_smoothing if c == label else 0)
            value = value - target * (z.exp() / total).log()
        found.append(value)
    return found


def mse(lists: Lists) -> list[Tensor]:
    return [(z - y) ** 2 for scores, labels in lists for z, y in zip(scores, labels, strict=True)]


def margin_mse(lists: Lists) -> list[Tensor]:
    """Labels: one a document, or margins, one a document but the first."""
    found = []
    for scores, labels in lists:
        margins = [labels[0] - y for y in labels[1:]] if len(labels) == len(scores) else labels
        assert len(margins) == len(scores) - 1
        found += [(scores[0] - z - m) ** 2 for z, m in zip(scores[1:], margins, strict=True)]
    return found


def mnrl(lists: Lists, *, scale: float = 10.0) -> list[Tensor]:
    found = []
    for scores, _ in lists:
        found.append(-((scale * scores[0]).exp() / sum((scale * z).exp() for z in scores)).log())
    return found


def rank_order(scores: Sequence[Tensor], labels: Sequence[float]) -> list[int]:
    """Documents from the best score to the worst; of equal scores the lesser label first."""
    return sorted(range(len(scores)), key=lambda i: (-float(scores[i].detach()), labels[i]))


def gains(labels: Sequence[float], k: int | None, eps: float = 1e-10) -> list[float]:
    raw = [2.0 ** max(y, 0.0) - 1 for y in labels]
    best = sorted(raw, reverse=True)
    top = sum(g / math.log2(1 + rank) for rank, g in enumerate(best, 1) if k is None or rank <= k)
    return [g / max(top, eps) for g in raw]


def pair_weight(weighting: str, i: int, j: int, gain: Sequence[float], mu: float) -> float:
    """Of the documents at the ranks i and j, both from 1."""

    def inverse(rank: int) -> float:
        return 1 / math.log2(1 + rank)

    apart = abs(i - j)
    ndcg2 = abs(inverse(apart) - inverse(apart + 1)) * abs(gain[i - 1] - gain[j - 1]) if apart else 0.0
    lambda_rank = abs(inverse(i) - inverse(j)) * abs(gain[i - 1] - gain[j - 1])
    return {
        "none": 1.0,
        "ndcg1": gain[i - 1] * inverse(i),
        "ndcg2": ndcg2,
        "lambda_rank": lambda_rank,
        "ndcg2pp": mu * ndcg2 + lambda_rank,
    }[weighting]


def lambda_loss(
    lists: Lists,
    *,
    weighting: str = "ndcg2pp",
    k: int | None = None,
    sigma: float = 1.0,
    mu: float = 10.0,
    base: float = 2.0,
) -> list[Tensor]:
    found = []
    for scores, labels in lists:
        order = rank_order(scores, labels)
        gain = gains([labels[d] for d in order], k)
        for i, a in enumerate(order, 1):
            for j, b in enumerate(order, 1):
                counted = k is None or i <= k or j <= k
                if counted and (weighting == "ndcg1" or labels[a] > labels[b]):
                    right = 1 / (1 + (-sigma * (scores[a] - scores[b])).exp())
                    found.append(-pair_weight(weighting, i, j, gain, mu) * right.log() / math.log(base))
    return found


def listnet(lists: Lists) -> list[Tensor]:
    found = []
    for scores, labels in lists:
        of_scores, of_labels = sum(z.exp() for z in scores), sum(math.exp(y) for y in labels)
        picks = [(math.exp(y) / of_labels) * (z.exp() / of_scores).log() for z, y in zip(scores, labels, strict=True)]
        found.append(-sum(picks[1:], picks[0]))
    return found


def listmle(lists: Lists, *, respect_input_order: bool = True, weights: str | None = None) -> list[Tensor]:
    found = []
    for scores, labels in lists:
        n = len(scores)
        order = list(range(n)) if respect_input_order else sorted(range(n), key=lambda i: -labels[i])
        by_rank = {
            None: [1.0] * n,
            "halving": [2.0 ** (n - r) - 1 for r in range(1, n + 1)],
            "logarithmic": [1 / math.log(1 + r) for r in range(1, n + 1)],
        }[weights]
        total = 1.0 if weights is None else sum(by_rank)
        value = 0 * scores[0]
        for r, d in enumerate(order):
            if by_rank[r]:
                value = value - by_rank[r] / total * (scores[d].exp() / sum(scores[e].exp() for e in order[r:])).log()
        found.append(value)
    return found


def adr_mse(lists: Lists, *, alpha: float = 1.0) -> list[Tensor]:
    found = []
    for scores, labels in lists:
        for i, y in enumerate(labels):
            places = [rank for rank, label in enumerate(sorted(labels, reverse=True), 1) if label == y]
            rank = sum(places) / len(places)
            smooth = 1 + sum(1 / (1 + (-alpha * (scores[j] - scores[i])).exp()) for j in range(len(scores)) if j != i)
            found.append((rank - smooth) ** 2 / math.log2(1 + rank))
    return found
