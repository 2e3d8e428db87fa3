"""Losses with a guide, with layers, or with parameters of their own, as Python loops over rows in float64.

Values are embeddings by role; `anchor/layer_2` is an output of an earlier layer, `guide@anchor` the representation of another model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from tests.losses.naive import SIMILARITY, Ids, Ranking, Values, cosine, log_sum_exp, mean, mnrl


def texts(values: Values) -> dict[str, Tensor]:
    """The roles alone."""
    return {role: x for role, x in values.items() if "/" not in role and "@" not in role}


def seen_by(teacher: str, values: Values) -> dict[str, Tensor]:
    return {role.removeprefix(f"{teacher}@"): x for role, x in values.items() if role.startswith(f"{teacher}@")}


def near(a: Tensor, b: Tensor) -> float:
    return float(cosine(a, b).detach())


def gist_embed(
    values: Values,
    targets: object = None,
    *,
    temperature: float = 0.01,
    margin_strategy: str = "absolute",
    margin: float = 0.0,
    contrast_anchors: bool = True,
    contrast_positives: bool = True,
    ids: Ids | None = None,
) -> Tensor:
    student, guide = texts(values), seen_by("guide", values)
    batch, found = Ranking(student, ids), []
    for i in batch.rows:
        own = near(guide["anchor"][i], guide["positive"][i])
        limit = own - margin * (abs(own) if margin_strategy == "relative" else 1)
        terms = [cosine(student["anchor"][i], student["positive"][i]) / temperature]
        for role, j in batch.docs:
            if (role, j) != ("positive", i) and not batch.known(i, role, j) and near(guide["anchor"][i], guide[role][j]) <= limit:
                terms.append(cosine(student["anchor"][i], student[role][j]) / temperature)
        for role in ["anchor"] * contrast_anchors + ["positive"] * contrast_positives:
            for j in batch.rows:
                if j != i and not batch.related(i, j) and near(guide[role][i], guide[role][j]) <= limit:
                    terms.append(cosine(student[role][i], student[role][j]) / temperature)
        found.append(log_sum_exp(terms) - terms[0])
    return mean(found)


def mega_batch_margin(
    values: Values, targets: object = None, *, positive_margin: float = 0.8, negative_margin: float = 0.3, ids: Ids | None = None
) -> Tensor:
    batch, found = Ranking(values, ids), []
    for i in batch.rows:
        a = values["anchor"][i]
        negatives = [cosine(a, values[r][j]) for r, j in batch.docs if (r, j) != ("positive", i) and not batch.known(i, r, j)]
        value = (positive_margin - cosine(a, values["positive"][i])).clamp(min=0)
        found.append(value + ((max(negatives) - negative_margin).clamp(min=0) if negatives else 0))  # type: ignore[type-var]
    return mean(found)


def gor(
    values: Values,
    targets: object = None,
    *,
    similarity: str = "cosine",
    mean_weight: float = 1.0,
    second_moment_weight: float = 1.0,
    aggregation: str = "mean",
) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for x in values.values():
        rows = range(len(x))
        found = [SIMILARITY[similarity](x[i], x[j]) for i in rows for j in rows if i != j]
        second = mean([s**2 for s in found]) - 1 / x.shape[1]
        total = total + mean_weight * mean(found) ** 2 + second_moment_weight * second.clamp(min=0)
    return total if aggregation == "sum" else total / len(values)


def contrastive_tension(values: Values, targets: object = None, *, scale: float = 20.0, similarity: str = "cosine") -> Tensor:
    both = {"anchor": values["twin@anchor"], "positive": values["anchor"]}
    there = mnrl(both, scale=scale, similarity=similarity)
    back = mnrl({"anchor": both["positive"], "positive": both["anchor"]}, scale=scale, similarity=similarity)
    return (there + back) / 2


def contrastive_tension_pairs(values: Values, targets: Tensor) -> Tensor:
    losses = []
    for u, v, y in zip(values["twin@anchor"], values["positive"], targets, strict=True):
        p = 1 / (1 + torch.exp(-sum(a * b for a, b in zip(u, v, strict=True))))
        losses.append(-(y * torch.log(p) + (1 - y) * torch.log(1 - p)))
    return torch.stack(losses).mean()


def log_softmax(x: Tensor) -> list[Tensor]:
    parts = list(x.unbind())
    return [p - log_sum_exp(parts) for p in parts]


def adaptive_layer(
    inner: Callable[..., Tensor],
    values: Values,
    targets: object,
    *,
    layers: Sequence[int],
    last_layer_weight: float = 1.0,
    prior_layers_weight: float = 1.0,
    kl_div_weight: float = 1.0,
    kl_temperature: float = 0.3,
    layer_weighting: str = "uniform",
) -> Tensor:
    """layers: those of the step."""
    last = texts(values)
    total = last_layer_weight * inner(last, targets)
    for layer in layers:
        early = {role: values[f"{role}/layer_{layer}"] for role in last}
        weight = {"uniform": 1.0, "log": 1 / (1 + math.log(1 + layer)), "linear": 1 / (1 + layer)}[layer_weighting]
        total = total + prior_layers_weight * weight / len(layers) * inner(early, targets)
        if not kl_temperature:
            continue
        found = []
        for role, x in last.items():
            for row, target in zip(early[role], x.detach(), strict=True):
                p, q = log_softmax(row / kl_temperature), log_softmax(target / kl_temperature)
                found.append(sum(b.exp() * (b - a) for a, b in zip(p, q, strict=True)))
        total = total + kl_div_weight * kl_temperature * mean(found)  # type: ignore[arg-type]
    return total


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]  # type: ignore[misc]


def embed_distill(
    values: Values,
    targets: Mapping[str, Tensor],
    *,
    distance_metric: str = "cosine",
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    found = []
    for role, x in values.items():
        y = targets.get(role, targets.get("*"))
        assert y is not None
        for i, row in enumerate(x):
            mapped = row if weight is None or bias is None else torch.stack(affine(row, weight, bias))
            if distance_metric == "cosine":
                found.append(1 - cosine(mapped, y[i]))
            else:
                squared = sum((a - b) ** 2 for a, b in zip(mapped, y[i], strict=True))
                found.append(squared.sqrt() if distance_metric == "l2" else squared / len(mapped))  # type: ignore[union-attr, operator]
    return mean(found)


def softmax(values: Values, targets: Tensor, *, weight: Tensor, bias: Tensor, features: str = "upd", width: int | None = None) -> Tensor:
    """features: u and p the embeddings, d their difference, m their product; the layer's blocks are `width` wide, the values as wide or narrower."""
    found = []
    for i, (a, p) in enumerate(zip(values["anchor"], values["positive"], strict=True)):
        vectors = {"u": a, "p": p, "d": (a - p).abs(), "m": a * p}
        logits = list(bias.unbind())
        for block, name in enumerate(features):
            for k, value in enumerate(vectors[name]):
                column = block * (width or len(a)) + k
                logits = [z + weight[c, column] * value for c, z in enumerate(logits)]
        found.append(log_sum_exp(logits) - logits[int(targets[i])])
    return mean(found)


def denoising(values: Values, targets: Sequence[Sequence[int]], *, embeddings: Tensor, from_vector: Tensor, to_words: Tensor) -> Tensor:
    """The text under the decoder `Bigrams` of further_cases.py: each word from the one before and the vector, mean over words."""
    found = []
    for x, words in zip(values["anchor"], targets, strict=True):
        for before, word in pairwise(words):
            hidden = torch.stack(
                [e + h for e, h in zip(embeddings[before], affine(x, from_vector, torch.zeros(len(from_vector))), strict=True)]
            )
            logits = affine(hidden, to_words, torch.zeros(len(to_words)))
            found.append(log_sum_exp(logits) - logits[word])
    return mean(found)
