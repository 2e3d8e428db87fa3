"""One row a variant of a loss of cross-encoders, with its reference: test_scores.py checks all of them in every way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from stpipe import losses as L
from stpipe.core.batch import Targets
from stpipe.core.context import StepContext
from stpipe.core.result import LossOutput
from stpipe.core.scores import ScoreBatch
from tests.losses import naive_scores as naive

CTX = StepContext(step=3, num_steps=10, seed=1)
RAGGED = (4, 1, 6, 3, 5, 2, 6)
FULL = (4,) * 7
SINGLE = (1,) * 7


@dataclass(frozen=True)
class Case:
    """A loss and its reference. labels: "grades" (0 to 3), "shares" (0 to 1), "ordered" (grades, greatest first), "margins" or None."""

    id: str
    loss: L.Loss
    reference: Callable[..., list[Tensor]]
    labels: str | None = "grades"
    counts: tuple[int, ...] = RAGGED
    activation: str = "Identity"

    def logits(self, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        """(N, 1) of all candidates."""
        g = torch.Generator().manual_seed(seed)
        return (1.5 * torch.randn(sum(self.counts), 1, generator=g, dtype=torch.float64)).to(dtype).requires_grad_()

    def grades(self, *, seed: int = 0) -> list[list[float]] | None:
        g = torch.Generator().manual_seed(seed + 1)

        def draw(count: int) -> list[float]:
            if self.labels == "margins":
                return torch.randn(count - 1, generator=g).tolist()
            drawn = torch.randint(0, 4, (count,), generator=g).tolist()
            drawn = sorted(drawn, reverse=True) if self.labels == "ordered" else drawn
            return [y / 3 for y in drawn] if self.labels == "shares" else [float(y) for y in drawn]

        return None if self.labels is None else [draw(count) for count in self.counts]

    def batch(self, logits: Tensor, *, seed: int = 0, grades: Sequence[Sequence[float]] | None = None) -> ScoreBatch:
        grades = self.grades(seed=seed) if grades is None else grades
        return ScoreBatch.from_flat(logits, torch.tensor(self.counts), targets=targets_of(grades))

    def expected(self, logits: Tensor, *, seed: int = 0, grades: Sequence[Sequence[float]] | None = None) -> tuple[Tensor, Tensor]:
        """Value and gradient of the float64 loop."""
        exact = logits.detach().double().requires_grad_()
        grades = self.grades(seed=seed) if grades is None else grades
        rows, labels, start = [], [], 0
        for i, count in enumerate(self.counts):
            rows.append([naive.ACTIVATIONS[self.activation](z) for z in exact[start : start + count, 0]])
            labels.append([1.0] + [0.0] * (count - 1) if grades is None else list(grades[i]))
            start += count
        value = naive.mean(self.reference(list(zip(rows, labels, strict=True))))
        (gradient,) = torch.autograd.grad(value, exact) if value.requires_grad else (torch.zeros_like(exact),)
        return value.detach(), gradient


def targets_of(grades: Sequence[Sequence[float]] | None) -> Targets:
    """Ragged lists are filled with NaN, as the data layer does."""
    if grades is None:
        return Targets()
    longest = max(len(row) for row in grades)
    return Targets(scores=torch.tensor([[*row, *[math.nan] * (longest - len(row))] for row in grades]))


def lambda_cases() -> list[Case]:
    variants: dict[str, dict[str, Any]] = {
        "default": {},
        "k": {"k": 2},
        "k-beyond": {"k": 50},
        "sharp": {"sigma": 2.5},
    }
    cases = [
        Case(f"lambda-{w}-{name}", L.LambdaLoss(weighting=w, **options), partial(naive.lambda_loss, weighting=w, **options))  # type: ignore[arg-type]
        for w in ("none", "ndcg1", "ndcg2", "lambda_rank", "ndcg2pp")
        for name, options in variants.items()
    ]
    return [
        *cases,
        Case("lambda-mu", L.LambdaLoss(mu=0.5), partial(naive.lambda_loss, mu=0.5)),
        Case("lambda-natural", L.LambdaLoss(reduction_log="natural"), partial(naive.lambda_loss, base=math.e)),
        Case("lambda-implicit", L.LambdaLoss(), naive.lambda_loss, None),
        Case("lambda-tanh", L.LambdaLoss(activation="Tanh"), naive.lambda_loss, activation="Tanh"),
        Case("ranknet", L.RankNetLoss(), partial(naive.lambda_loss, weighting="none")),
        Case(
            "ranknet-options",
            L.RankNetLoss(k=3, sigma=0.7, reduction_log="natural"),
            partial(naive.lambda_loss, weighting="none", k=3, sigma=0.7, base=math.e),
        ),
    ]


def list_cases() -> list[Case]:
    by_labels: dict[str, Any] = {"respect_input_order": False}
    return [
        Case("listnet", L.ListNetLoss(), naive.listnet),
        Case("listnet-implicit", L.ListNetLoss(), naive.listnet, None),
        Case("listnet-sigmoid", L.ListNetLoss(activation="Sigmoid"), naive.listnet, activation="Sigmoid"),
        Case("listmle", L.ListMLELoss(), naive.listmle, "ordered"),
        Case("listmle-as-it-comes", L.ListMLELoss(), naive.listmle),
        Case("listmle-by-labels", L.ListMLELoss(**by_labels), partial(naive.listmle, **by_labels)),
        Case("plistmle", L.PListMLELoss(), partial(naive.listmle, weights="halving"), "ordered"),
        Case("plistmle-by-labels", L.PListMLELoss(**by_labels), partial(naive.listmle, weights="halving", **by_labels)),
        Case("plistmle-log", L.PListMLELoss(lambda_weight="logarithmic"), partial(naive.listmle, weights="logarithmic"), "ordered"),
        Case("plistmle-none", L.PListMLELoss(lambda_weight=None), naive.listmle, "ordered"),
        Case("adr_mse", L.ADRMSELoss(), naive.adr_mse),
        Case("adr_mse-alpha", L.ADRMSELoss(alpha=2.5), partial(naive.adr_mse, alpha=2.5)),
        Case("adr_mse-implicit", L.ADRMSELoss(), naive.adr_mse, None),
    ]


def pair_cases() -> list[Case]:
    weighted = L.BinaryCrossEntropyLoss(pos_weight=4.0)
    return [
        Case("bce-pairs", L.BinaryCrossEntropyLoss(), naive.binary_cross_entropy, "shares", SINGLE),
        Case("bce-lists", L.BinaryCrossEntropyLoss(), naive.binary_cross_entropy, "shares"),
        Case("bce-implicit", L.BinaryCrossEntropyLoss(), naive.binary_cross_entropy, None, FULL),
        Case("bce-weighted", weighted, partial(naive.binary_cross_entropy, pos_weight=4.0), "shares"),
        Case("bce-tanh", L.BinaryCrossEntropyLoss(activation="Tanh"), naive.binary_cross_entropy, "shares", activation="Tanh"),
        Case("mse-pairs", L.RerankerMSELoss(), naive.mse, "grades", SINGLE),
        Case("mse-lists", L.RerankerMSELoss(activation="Sigmoid"), naive.mse, "shares", activation="Sigmoid"),
        Case("margin_mse-margins", L.RerankerMarginMSELoss(), naive.margin_mse, "margins", FULL),
        Case("margin_mse-scores", L.RerankerMarginMSELoss(), naive.margin_mse, "grades", FULL),
        Case("margin_mse-ragged", L.RerankerMarginMSELoss(), naive.margin_mse, "grades"),
        Case("margin_mse-sigmoid", L.RerankerMarginMSELoss(activation="Sigmoid"), naive.margin_mse, "grades", FULL, "Sigmoid"),
        Case("mnrl", L.RerankerMultipleNegativesRankingLoss(), naive.mnrl, None, activation="Sigmoid"),
        Case(
            "mnrl-plain",
            L.RerankerMultipleNegativesRankingLoss(activation="Identity", scale=2.0),
            partial(naive.mnrl, scale=2.0),
            None,
            FULL,
        ),
    ]


CASES = (*pair_cases(), *lambda_cases(), *list_cases())
all_cases = pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
CHUNKS = (slice(0, 1), slice(1, 4), slice(4, 7))


def gradient(value: Tensor, logits: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(value, logits, retain_graph=True)
    return found


def assert_same_gradient(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    largest = float(expected.abs().max())
    assert largest > 1e-3, "the reference has no gradient, so nothing would be compared"
    assert float((found.double() - expected.double()).abs().max()) <= tolerance * max(largest, 1.0)


def total(outputs: Sequence[LossOutput]) -> Tensor:
    """What the engine does with the outputs of chunks or processes."""
    return torch.stack([o.sum for o in outputs]).sum() / torch.stack([o.count for o in outputs]).sum().clamp(min=1)
