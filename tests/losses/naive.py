"""Every loss once more, as a Python loop over rows in float64: slow, obvious, and independent of the code that it checks.

A function takes `values` (role -> list of vectors that carry gradient) and the targets, and returns a 0-d tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Values = Mapping[str, Tensor]
Ids = Mapping[str, Sequence[int]]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    return -((a - b) ** 2).sum().sqrt()


def manhattan(a: Tensor, b: Tensor) -> Tensor:
    return -(a - b).abs().sum()


SIMILARITY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cosine": cosine, "dot": dot, "euclidean": euclidean, "manhattan": manhattan}


def distance(metric: str, a: Tensor, b: Tensor) -> Tensor:
    return (1.0 if metric == "cosine" else 0.0) - SIMILARITY[metric](a, b)


def angle(a: Tensor, b: Tensor) -> Tensor:
    """As the paper has it: divide complex numbers, then scale by the moduli; |sum of real and imaginary parts|."""
    if len(a) % 2:
        a, b = torch.cat([a, a.new_zeros(1)]), torch.cat([b, b.new_zeros(1)])
    half = len(a) // 2
    total = a.new_zeros(())
    for k in range(half):
        x, y, u, v = a[k], a[half + k], b[k], b[half + k]
        total = total + (x * u + y * v) + (y * u - x * v)
    return (total / ((a * a).sum().sqrt() * (b * b).sum().sqrt())).abs()


def negative_roles(values: Values) -> list[str]:
    return [r for r in values if r.startswith("negative_")]


def log_sum_exp(terms: list[Tensor]) -> Tensor:
    top = max(float(t.detach()) for t in terms)
    return sum((t - top).exp() for t in terms).log() + top  # type: ignore[union-attr]


class Ranking:
    """In-batch softmax by rows and names; `ids` say which texts are equal (None: all differ)."""

    def __init__(self, values: Values, ids: Ids | None = None) -> None:
        self.values = values
        self.ids = ids
        self.rows = range(len(values["anchor"]))
        self.docs = [(role, j) for role in ["positive", *negative_roles(values)] for j in self.rows]

    def related(self, i: int, j: int) -> bool:
        """Another row whose pair holds for row i as well."""
        return self.ids is not None and i != j and any(self.ids[r][i] == self.ids[r][j] for r in ("anchor", "positive"))

    def known(self, i: int, role: str, j: int) -> bool:
        """A document that is a positive of row i, but not the one that came with it."""
        if self.ids is None or (role, j) == ("positive", i):
            return False
        return self.ids[role][j] == self.ids["positive"][i] or (role == "positive" and self.related(i, j))

    def hardness(self, mode: str | None, i: int, role: str, j: int) -> bool:
        in_batch, hard = j != i, j == i and role != "positive"
        return {None: False, "in_batch_negatives": in_batch, "hard_negatives": hard, "all_negatives": in_batch or hard}[mode]

    def logits(
        self, direction: str, i: int, sim: Callable[[Tensor, Tensor], Tensor], scale: float, mode: str | None, strength: float
    ) -> list[Tensor]:
        query, doc = self.values["anchor"][i], self.values["positive"][i]
        if direction == "query_to_doc":
            kept = [(r, j) for r, j in self.docs if not self.known(i, r, j)]
            found = []
            for role, j in kept:
                s = sim(query, self.values[role][j])
                found.append(scale * s + (strength * s.detach() if self.hardness(mode, i, role, j) else 0))
            return found
        if direction == "query_to_query":
            return [scale * sim(query, self.values["anchor"][j]) for j in self.rows if j != i and not self.related(i, j)]
        if direction == "doc_to_query":
            return [scale * sim(doc, self.values["anchor"][j]) for j in self.rows if not self.related(i, j)]
        return [scale * sim(doc, self.values[r][j]) for r, j in self.docs if j != i and not self.known(i, r, j)]


def mnrl(
    values: Values,
    targets: object = None,
    *,
    scale: float = 20.0,
    similarity: str = "cosine",
    directions: Sequence[str] = ("query_to_doc",),
    partition_mode: str = "joint",
    hardness_mode: str | None = None,
    hardness_strength: float = 0.0,
    ids: Ids | None = None,
) -> Tensor:
    batch, sim = Ranking(values, ids), SIMILARITY[similarity]
    total = values["anchor"].new_zeros(())
    for i in batch.rows:
        per_direction = [batch.logits(d, i, sim, scale, hardness_mode, hardness_strength) for d in directions]
        if partition_mode == "joint":
            log_z = log_sum_exp([x for found in per_direction for x in found])
        else:
            log_z = sum(log_sum_exp(found) for found in per_direction) / len(directions)  # type: ignore[assignment]
        total = total + log_z - scale * sim(values["anchor"][i], values["positive"][i])
    return total / len(batch.rows)


def order(similarities: list[Tensor], targets: list[float], scale: float) -> Tensor:
    total = torch.ones((), dtype=torch.float64)
    for i, high in enumerate(targets):
        for j, low in enumerate(targets):
            if high > low:
                total = total + (scale * (similarities[j] - similarities[i])).exp()
    return total.log()


def cosent(values: Values, targets: Tensor, *, scale: float = 20.0, similarity: str = "cosine") -> Tensor:
    sims = [SIMILARITY[similarity](a, p) for a, p in zip(values["anchor"], values["positive"], strict=True)]
    return order(sims, targets.tolist(), scale)


def angle_loss(values: Values, targets: Tensor | None, *, scale: float = 20.0) -> Tensor:
    labels = [1.0] * len(values["anchor"]) if targets is None else targets.tolist()
    sims = [angle(a, p) for a, p in zip(values["anchor"], values["positive"], strict=True)]
    wanted = list(labels)
    for role in negative_roles(values):
        sims += [angle(a, n) for a, n in zip(values["anchor"], values[role], strict=True)]
        wanted += [1 - y for y in labels]
    return order(sims, wanted, scale)


def cosine_similarity(values: Values, targets: Tensor, *, loss_fct: str = "mse", transform: str = "identity") -> Tensor:
    found = []
    for a, p, y in zip(values["anchor"], values["positive"], targets.tolist(), strict=True):
        x = cosine(a, p)
        x = {"identity": x, "relu": x.clamp(min=0), "sigmoid": 1 / (1 + (-x).exp()), "rescale": (1 + x) / 2}[transform]
        gap = (x - y).abs()
        found.append(
            {
                "mse": gap**2,
                "mae": gap,
                "huber": gap**2 / 2 if gap < 1 else gap - 0.5,
                "bce": -y * (1 / (1 + (-x).exp())).log() - (1 - y) * (1 - 1 / (1 + (-x).exp())).log(),
            }[loss_fct]
        )
    return sum(found) / len(found)  # type: ignore[return-value]


def contrastive(values: Values, targets: Tensor, *, margin: float = 0.5, metric: str = "cosine") -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for a, p, y in zip(values["anchor"], values["positive"], targets.tolist(), strict=True):
        d = distance(metric, a, p)
        total = total + 0.5 * (y * d**2 + (1 - y) * (margin - d).clamp(min=0) ** 2)
    return total / len(targets)


def numbers(found: list[Tensor]) -> list[float]:
    return [float(x.detach()) for x in found]


def online_contrastive(values: Values, targets: Tensor, *, margin: float = 0.5, metric: str = "cosine") -> Tensor:
    found = [(distance(metric, a, p), y) for a, p, y in zip(values["anchor"], values["positive"], targets.tolist(), strict=True)]
    near = [d for d, y in found if y == 1]
    far = [d for d, y in found if y == 0]
    lowest = min(numbers(far)) if far else math.fsum(numbers(near)) / len(near)
    highest = max(numbers(near)) if near else math.fsum(numbers(far)) / len(far)
    total = torch.zeros((), dtype=torch.float64)
    for d in near:
        total = total + (d**2 if d.item() > lowest else 0)
    for d in far:
        total = total + ((margin - d).clamp(min=0) ** 2 if d.item() < highest else 0)
    return total


def triplet(values: Values, targets: object = None, *, triplet_margin: float = 5.0, metric: str = "euclidean") -> Tensor:
    total, roles = torch.zeros((), dtype=torch.float64), negative_roles(values)
    for i, a in enumerate(values["anchor"]):
        for role in roles:
            hinge = distance(metric, a, values["positive"][i]) - distance(metric, a, values[role][i]) + triplet_margin
            total = total + hinge.clamp(min=0) / len(roles)
    return total / len(values["anchor"])


class Classes:
    """Distances of labelled texts, with the positives and negatives of each."""

    def __init__(self, values: Values, labels: Tensor, metric: str) -> None:
        self.x, self.y, self.metric = values["anchor"], labels.tolist(), metric
        self.rows = range(len(self.y))

    def d(self, i: int, j: int) -> Tensor:
        return distance(self.metric, self.x[i], self.x[j])

    def positives(self, i: int) -> list[Tensor]:
        return [self.d(i, j) for j in self.rows if j != i and self.y[i] == self.y[j]]

    def negatives(self, i: int) -> list[Tensor]:
        return [self.d(i, j) for j in self.rows if self.y[i] != self.y[j]]


def mean(found: list[Tensor]) -> Tensor:
    return sum(found) / len(found) if found else torch.zeros((), dtype=torch.float64)  # type: ignore[return-value]


def batch_hard(values: Values, targets: Tensor, *, margin: float = 5.0, metric: str = "euclidean", soft: bool = False) -> Tensor:
    rows, found = Classes(values, targets, metric), []
    for i in rows.rows:
        near, far = rows.positives(i), rows.negatives(i)
        if near and far:
            gap = max(near) - min(far)  # type: ignore[type-var]
            found.append((1 + gap.exp()).log() if soft else (gap + margin).clamp(min=0))
    return mean(found)


def batch_semi_hard(values: Values, targets: Tensor, *, margin: float = 5.0, metric: str = "euclidean") -> Tensor:
    rows, found = Classes(values, targets, metric), []
    for i in rows.rows:
        far = rows.negatives(i)
        for near in rows.positives(i) if far else []:
            beyond = [n for n in far if n > near]
            chosen = min(beyond) if beyond else max(far)  # type: ignore[type-var]
            found.append((near - chosen + margin).clamp(min=0))
    return mean(found)


def batch_all(values: Values, targets: Tensor, *, margin: float = 5.0, metric: str = "euclidean") -> Tensor:
    rows, found = Classes(values, targets, metric), []
    for i in rows.rows:
        for near in rows.positives(i):
            found += [near - n + margin for n in rows.negatives(i) if near - n + margin > 0]
    return mean(found)


def mse(values: Values, targets: Mapping[str, Tensor]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for role, x in values.items():
        y = targets.get(role, targets.get("*"))
        for i in range(x.shape[0]):
            for k in range(x.shape[1]):
                total = total + (x[i, k] - y[i, k]) ** 2  # type: ignore[index]
    return total / sum(x.numel() for x in values.values())


def matryoshka(inner: Callable[..., Tensor], values: Values, targets: object, *, dims: Sequence[int], weights: Sequence[float]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for dim, weight in zip(dims, weights, strict=True):
        cut = {k: v[:, :dim] for k, v in targets.items()} if isinstance(targets, Mapping) else targets
        total = total + weight * inner({role: x[:, :dim] for role, x in values.items()}, cut)
    return total


def margin_mse(values: Values, targets: Tensor, *, similarity: str = "dot") -> Tensor:
    """targets: rows of one margin a negative, or of one score a text, the positive's first; or one margin a row."""
    score, roles, found = SIMILARITY[similarity], negative_roles(values), []
    for i, a in enumerate(values["anchor"]):
        given = targets[i].reshape(-1).tolist()
        for k, role in enumerate(roles):
            margin = given[0] - given[k + 1] if len(given) > len(roles) else given[k]
            found.append((score(a, values["positive"][i]) - score(a, values[role][i]) - margin) ** 2)
    return mean(found)


def distill_kl_div(values: Values, targets: Tensor, *, similarity: str = "dot", student: float = 1.0, teacher: float = 1.0) -> Tensor:
    found = []
    for i, a in enumerate(values["anchor"]):
        mine = [SIMILARITY[similarity](a, values[r][i]) / student for r in ("positive", *negative_roles(values))]
        its = [t / teacher for t in targets[i].unbind()]
        total = torch.zeros((), dtype=torch.float64)
        for s, t in zip(mine, its, strict=True):
            log_p, log_q = s - log_sum_exp(mine), t - log_sum_exp(its)
            total = total + log_q.exp() * (log_q - log_p)
        found.append(student**2 * total)
    return mean(found)


def flops(rows: Sequence[Tensor], *, threshold: int | None = None) -> Tensor:
    """Rows of weights; those with at most `threshold` non-zero weights count as zeros."""
    total = torch.zeros((), dtype=torch.float64)
    for v in range(len(rows[0])):
        kept = [row[v] for row in rows if threshold is None or sum(float(w) != 0 for w in row.detach()) > threshold]
        total = total + (sum(kept) / len(rows)) ** 2  # type: ignore[operator]
    return total


def l1(rows: Sequence[Tensor], *, threshold: int | None = None) -> Tensor:
    kept = [sum(row) for row in rows if threshold is None or sum(float(w) != 0 for w in row.detach()) > threshold]
    return sum(kept) / len(rows) if kept else torch.zeros((), dtype=torch.float64)  # type: ignore[return-value, arg-type]


def splade(
    inner: Callable[..., Tensor],
    values: Values,
    targets: object = None,
    *,
    query_weight: float = 5e-5,
    document_weight: float = 3e-5,
    query: Callable[..., Tensor] = flops,
    document: Callable[..., Tensor] = flops,
    documents_only: bool = False,
) -> Tensor:
    queries = [] if documents_only else list(values["anchor"])
    documents = [row for role, x in values.items() if role != "anchor" or documents_only for row in x]
    total = inner(values, targets)
    for weight, regularizer, rows in ((query_weight, query, queries), (document_weight, document, documents)):
        total = total + (weight * regularizer(rows) if rows else 0)
    return total
