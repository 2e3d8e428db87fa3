"""How far what an export gives is from what the model gives.

Shape legend: N inputs, D width of an embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stpipe.evaluation.metrics import spearman


@dataclass(frozen=True)
class Drift:
    """max_abs: largest difference of any number, divided by the largest absolute value of the model where that is above 1;
    mean_cosine, min_cosine: of embeddings with the model's own, None for scores; spearman: of scores with the model's own, None for
    embeddings; inputs: number compared; finite: whether all numbers are."""

    max_abs: float
    mean_cosine: float | None
    min_cosine: float | None
    spearman: float | None
    inputs: int
    finite: bool

    def as_json(self) -> dict[str, Any]:
        """The same for a file; NaN is None there."""
        return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in vars(self).items()}


def drift(model: Tensor, export: Tensor, *, scores: bool) -> Drift:
    """Compare embeddings (N, D), dense or sparse, or scores (N,) or (N, C), in float64.

    Args:
        model: what the model gives.
        export: what the export gives for the same inputs.
        scores: whether these are scores of a cross-encoder.
    """
    a, b = (values.to_dense().double() if values.layout != torch.strided else values.double() for values in (model, export))
    if a.shape != b.shape:
        return Drift(math.inf, None if scores else 0.0, None if scores else 0.0, 0.0 if scores else None, len(a), bool(b.isfinite().all()))
    finite = bool(b.isfinite().all())
    largest = float((a - b).abs().max()) / max(1.0, float(a.abs().max())) if finite else math.inf
    if scores:
        rank = rank_agreement(a.reshape(len(a), -1), b.reshape(len(b), -1)) if finite else 0.0
        return Drift(largest, None, None, rank, len(a), finite)
    cosines = torch.nn.functional.cosine_similarity(a, b, dim=1, eps=1e-30)
    both_zero = (a == 0).all(1) & (b == 0).all(1)  # a text without any active word is the same in both
    cosines = torch.where(both_zero, 1.0, cosines) if finite else torch.zeros(len(a), dtype=torch.float64)
    return Drift(largest, float(cosines.mean()), float(cosines.min()), None, len(a), finite)


def drift_of_similarities(model: Tensor, export: Tensor) -> Drift:
    """Compare embeddings (N, D) and (N, D') of two models: the rank correlation of the cosines of all pairs of different texts."""
    if not export.isfinite().all():
        return Drift(math.nan, None, None, 0.0, len(model), False)
    upper = torch.triu_indices(len(model), len(model), 1)
    found = []
    for values in (model, export):
        unit = torch.nn.functional.normalize(values.double(), dim=1)
        found.append((unit @ unit.T)[upper[0], upper[1]][:, None])
    return Drift(math.nan, None, None, rank_agreement(*found), len(model), True)


def rank_agreement(a: Tensor, b: Tensor) -> float:
    """Spearman correlation of the scores (N, C) of each output, the lowest of the outputs; equal columns agree, constant ones that
    differ do not."""
    found = []
    for x, y in zip(a.T, b.T, strict=True):
        value = 1.0 if torch.equal(x, y) else spearman(x.numpy(), y.numpy())
        found.append(0.0 if math.isnan(value) else value)
    return min(found)


def overall(parts: Sequence[Drift]) -> Drift:
    """The worst of several comparisons; the mean cosine is that of all inputs."""
    count = sum(part.inputs for part in parts)
    cosines = [part.mean_cosine * part.inputs for part in parts if part.mean_cosine is not None]
    lowest = [part.min_cosine for part in parts if part.min_cosine is not None]
    ranks = [part.spearman for part in parts if part.spearman is not None]
    return Drift(
        max(part.max_abs for part in parts),
        sum(cosines) / count if cosines else None,
        min(lowest) if lowest else None,
        min(ranks) if ranks else None,
        count,
        all(part.finite for part in parts),
    )
