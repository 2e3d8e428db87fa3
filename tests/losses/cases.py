"""One row a variant of a loss: the suite in test_suite.py checks all of them in every way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stpipe import losses as L
from stpipe.core.batch import Targets
from stpipe.core.context import StepContext
from stpipe.core.reps import Column, Rep, RepBatch
from stpipe.core.tokens import Tokens
from stpipe.losses.csr import OUTPUTS
from tests.losses import naive, naive_csr

ROWS, WIDTH = 7, 6


@dataclass(frozen=True)
class LossCase:
    """A loss and its reference.

    roles: columns of the batch; targets: "score", "binary", "class" (any numbers), "classes" (0 to 2), "vector", "vectors", "margin",
    "margins", "scores", "tokens" or None; lexical: values at least 0, many of them 0; learned: what the loss learns itself;
    reference: (values, targets) -> float64 loop.
    """

    id: str
    loss: L.Loss
    reference: Callable[..., Tensor]
    roles: tuple[str, ...]
    targets: str | None = None
    width: int = WIDTH
    lexical: bool = False
    learned: Mapping[Any, nn.Module] = field(default_factory=dict)

    @property
    def context(self) -> StepContext:
        """A moment in the run."""
        return StepContext(step=3, num_steps=10, seed=1, learned=self.learned)

    @property
    def compares_rows(self) -> bool:
        """Whether rows, rather than the texts within one, are held against each other."""
        within = ("contrastive", "online_contrastive", "mse", "cosine_similarity", "triplet", "sum", "matryoshka-mse", "matryoshka-triplet")
        within += ("margin_mse", "distill", "sparse_distill", "splade", "csr", "mega_batch", "softmax", "matryoshka-softmax")
        within += ("embed_distill", "denoising", "adaptive_layer", "tension_pairs")
        return not self.id.startswith(within) and not (self.id.startswith("angle-") and len(self.roles) > 2)

    def values(self, *, seed: int = 0, rows: int = ROWS, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Random rows, near enough to each other that margins are met by some and violated by others."""
        g = torch.Generator().manual_seed(seed)
        centre = torch.randn(self.width, generator=g, dtype=torch.float64)
        drawn = {role: centre + 0.8 * torch.randn(rows, self.width, generator=g, dtype=torch.float64) for role in self.roles}
        return {role: (x.relu() if self.lexical else x).to(dtype).requires_grad_() for role, x in drawn.items()}

    def make_targets(self, *, seed: int = 0, rows: int = ROWS, dtype: torch.dtype = torch.float32) -> Targets:
        g = torch.Generator().manual_seed(seed + 1)
        if self.targets == "score":
            return Targets(score=torch.randint(0, 4, (rows,), generator=g).to(dtype) / 3)  # with ties
        if self.targets == "binary":
            return Targets(label=torch.randint(0, 2, (rows,), generator=g))
        if self.targets == "class":
            return Targets(label=torch.arange(rows) % 3 + 5)
        if self.targets == "classes":
            return Targets(label=torch.arange(rows) % 3)
        if self.targets == "tokens":
            return Targets(tokens=Tokens.from_lists([torch.randint(0, 9, (2 + i % 4,), generator=g).tolist() for i in range(rows)]))
        if self.targets == "vector":
            return Targets(vectors={"*": torch.randn(rows, self.width, generator=g, dtype=torch.float64).to(dtype)})
        if self.targets == "vectors":
            return Targets(vectors={r: torch.randn(rows, self.width, generator=g, dtype=torch.float64).to(dtype) for r in self.roles})
        negatives = len(self.roles) - 2
        if self.targets == "margin":
            return Targets(score=torch.randn(rows, generator=g, dtype=torch.float64).to(dtype))
        if self.targets in ("margins", "scores"):
            width = negatives + (self.targets == "scores")
            return Targets(scores=3 * torch.randn(rows, width, generator=g, dtype=torch.float64).to(dtype))
        return Targets()

    def expected(self, values: dict[str, Tensor], targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """Value and gradients of the float64 loop."""
        exact = {role: x.detach().double().requires_grad_() for role, x in values.items()}
        value = self.reference(exact, plain_targets(targets))
        grads = torch.autograd.grad(value, list(exact.values()), allow_unused=True)
        return value.detach(), {r: torch.zeros_like(x) if g is None else g for (r, x), g in zip(exact.items(), grads, strict=True)}


def plain_targets(targets: Targets) -> Any:
    """What the naive functions take."""
    if targets.vectors:
        return {k: v.double() for k, v in targets.vectors.items()}
    if targets.tokens is not None:
        return [ids.tolist() for ids in targets.tokens.ids.split(targets.tokens.lengths.tolist())]
    found = next((t for t in (targets.score, targets.label, targets.scores) if t is not None), None)
    return None if found is None else found.double()


def rep_batch(values: dict[str, Tensor], targets: Targets, *, text_id: Mapping[str, Tensor] | None = None) -> RepBatch:
    """The batch of these values; `anchor/sae_k` is a further output of the encoder for the anchors, not a role, and `guide@anchor` what
    another model makes of the anchors."""
    roles = {role: x for role, x in values.items() if "/" not in role and "@" not in role}
    batch = RepBatch.from_values(roles, targets=targets, text_id=text_id)
    teacher: dict[str, dict[str, Column]] = {}
    for name, x in values.items():
        if "@" in name:
            of, role = name.split("@")
            teacher.setdefault(of, {})[role] = Column(Rep(x), Rep(x), batch.columns[role].text_id)
    columns = {}
    for role, column in batch.columns.items():
        extras = {name.removeprefix(f"{role}/"): x for name, x in values.items() if name.startswith(f"{role}/")}
        columns[role] = replace(column, local=replace(column.local, extras=extras), all=replace(column.all, extras=extras))
    return replace(batch, columns=columns, teacher=teacher)


PAIR = ("anchor", "positive")
NEGATIVES = {n: (*PAIR, *(f"negative_{k + 1}" for k in range(n))) for n in (0, 1, 3)}
ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
SYMMETRIC: dict[str, Any] = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}


def ranking_cases() -> list[LossCase]:
    options: dict[str, dict[str, Any]] = {
        "default": {},
        "dot": {"similarity": "dot", "scale": 1.0},
        "euclidean": {"similarity": "euclidean", "scale": 2.0},
        "manhattan": {"similarity": "manhattan", "scale": 0.5},
        "symmetric": SYMMETRIC,
        "gte": {"directions": ALL},
        "q2q": {"directions": ("query_to_query", "query_to_doc"), "scale": 7.0},
        "d2d": {"directions": ("query_to_doc", "doc_to_doc")},
        "hard_in_batch": {"hardness_mode": "in_batch_negatives", "hardness_strength": 5.0},
        "hard_all": {"hardness_mode": "all_negatives", "hardness_strength": 9.0, "directions": ALL},
        "hard_only": {"hardness_mode": "hard_negatives", "hardness_strength": 5.0},
    }
    return [
        LossCase(f"mnrl-{name}-{n}", L.MultipleNegativesRankingLoss(**kwargs), partial(naive.mnrl, **kwargs), roles)
        for name, kwargs in options.items()
        for n, roles in NEGATIVES.items()
    ]


def order_cases() -> list[LossCase]:
    cases = [
        LossCase(f"cosent-{s}", L.CoSENTLoss(scale=t, similarity=s), partial(naive.cosent, scale=t, similarity=s), PAIR, "score")
        for s, t in {"cosine": 20.0, "dot": 1.0, "euclidean": 2.0, "manhattan": 1.0}.items()
    ]
    cases += [LossCase("angle", L.AnglELoss(), naive.angle_loss, PAIR, "score")]
    cases += [LossCase("angle-odd", L.AnglELoss(scale=3.0), partial(naive.angle_loss, scale=3.0), PAIR, "score", width=5)]
    cases += [LossCase(f"angle-negatives-{n}", L.AnglELoss(), naive.angle_loss, NEGATIVES[n]) for n in (1, 3)]
    return [*cases, LossCase("angle-labelled-negatives", L.AnglELoss(), naive.angle_loss, NEGATIVES[1], "binary")]


def pair_cases() -> list[LossCase]:
    cases = [
        LossCase(f"cosine_similarity-{f}", L.CosineSimilarityLoss(loss_fct=f), partial(naive.cosine_similarity, loss_fct=f), PAIR, "score")
        for f in ("mse", "mae", "huber", "bce")
    ]
    cases += [
        LossCase(
            f"cosine_similarity-{t}",
            L.CosineSimilarityLoss(cos_score_transformation=t),
            partial(naive.cosine_similarity, transform=t),
            PAIR,
            "score",
        )
        for t in ("relu", "sigmoid", "rescale")
    ]
    for metric, margin in {"cosine": 0.5, "euclidean": 2.5, "manhattan": 6.0}.items():
        options = {"metric": metric, "margin": margin}
        cases.append(LossCase(f"contrastive-{metric}", L.ContrastiveLoss(**options), partial(naive.contrastive, **options), PAIR, "binary"))
        cases.append(
            LossCase(
                f"online_contrastive-{metric}",
                L.OnlineContrastiveLoss(**options),
                partial(naive.online_contrastive, **options),
                PAIR,
                "binary",
            )
        )
    return [*cases, LossCase("contrastive-weighted", L.ContrastiveLoss(), naive.contrastive, PAIR, "score")]


def triplet_cases() -> list[LossCase]:
    cases = []
    for metric, margin in {"cosine": 0.1, "euclidean": 0.5, "manhattan": 1.0}.items():
        for n in (1, 3):
            options: dict[str, Any] = {"metric": metric, "triplet_margin": margin}
            cases.append(LossCase(f"triplet-{metric}-{n}", L.TripletLoss(**options), partial(naive.triplet, **options), NEGATIVES[n]))
        options = {"metric": metric, "margin": margin}
        for name, cls, reference in (
            ("batch_hard", L.BatchHardTripletLoss, naive.batch_hard),
            ("batch_semi_hard", L.BatchSemiHardTripletLoss, naive.batch_semi_hard),
            ("batch_all", L.BatchAllTripletLoss, naive.batch_all),
        ):
            cases.append(LossCase(f"{name}-{metric}", cls(**options), partial(reference, **options), ("anchor",), "class"))
        soft = L.BatchHardSoftMarginTripletLoss(metric=metric)
        cases.append(LossCase(f"batch_hard_soft-{metric}", soft, partial(naive.batch_hard, metric=metric, soft=True), ("anchor",), "class"))
    return cases


def wrapper_cases() -> list[LossCase]:
    dims, weights = (6, 4, 2), (1.0, 0.5, 2.0)
    inner: list[tuple[str, L.Loss, Callable[..., Tensor], tuple[str, ...], str | None]] = [
        ("mnrl", L.MultipleNegativesRankingLoss(), naive.mnrl, NEGATIVES[1], None),
        (
            "dot",
            L.MultipleNegativesRankingLoss(similarity="dot", scale=1.0),
            partial(naive.mnrl, similarity="dot", scale=1.0),
            NEGATIVES[0],
            None,
        ),
        ("cosent", L.CoSENTLoss(), naive.cosent, PAIR, "score"),
        ("triplet", L.TripletLoss(triplet_margin=0.5), partial(naive.triplet, triplet_margin=0.5), NEGATIVES[3], None),
        ("batch_all", L.BatchAllTripletLoss(margin=0.3), partial(naive.batch_all, margin=0.3), ("anchor",), "class"),
        ("mse", L.MSELoss(), naive.mse, PAIR, "vectors"),
    ]
    cases = [
        LossCase(
            f"matryoshka-{name}",
            L.MatryoshkaLoss(loss=loss, dims=dims, weights=weights),
            partial(naive.matryoshka, reference, dims=dims, weights=weights),
            roles,
            targets,
        )
        for name, loss, reference, roles, targets in inner
    ]
    terms = {"rank": L.Term(L.MultipleNegativesRankingLoss(), 0.7), "margin": L.Term(L.TripletLoss(triplet_margin=0.5), 2.0)}

    def both(values: dict[str, Tensor], targets: Any) -> Tensor:
        return 0.7 * naive.mnrl(values) + 2.0 * naive.triplet(values, triplet_margin=0.5)

    return [*cases, LossCase("sum", L.SumLoss(terms=terms), both, NEGATIVES[1])]


def distillation_cases() -> list[LossCase]:
    cases = [LossCase("margin_mse-one", L.MarginMSELoss(), naive.margin_mse, NEGATIVES[1], "margin")]
    for n in (1, 3):
        for targets in ("margins", "scores"):
            cases.append(LossCase(f"margin_mse-{targets}-{n}", L.MarginMSELoss(), naive.margin_mse, NEGATIVES[n], targets))
        cases.append(LossCase(f"distill-{n}", L.DistillKLDivLoss(), naive.distill_kl_div, NEGATIVES[n], "scores"))
        sparse = partial(naive.distill_kl_div, student=2.0, teacher=2.0)
        cases.append(LossCase(f"sparse_distill-{n}", L.SparseDistillKLDivLoss(), sparse, NEGATIVES[n], "scores", lexical=True))
    apart = L.DistillKLDivLoss(similarity="cosine", temperature=0.3, teacher_temperature=4.0)
    reference = partial(naive.distill_kl_div, similarity="cosine", student=0.3, teacher=4.0)
    cosine = L.MarginMSELoss(similarity="cosine")
    return [
        *cases,
        LossCase("distill-apart", apart, reference, NEGATIVES[3], "scores"),
        LossCase("margin_mse-cosine", cosine, partial(naive.margin_mse, similarity="cosine"), NEGATIVES[3], "scores"),
    ]


DOT = partial(naive.mnrl, similarity="dot", scale=1.0)


def splade_cases() -> list[LossCase]:
    """Weights large enough to be seen; the suite's context is past the warm-up."""
    weights: dict[str, Any] = {"query_weight": 0.3, "document_weight": 0.2}
    cases = [
        LossCase(f"splade-mnrl-{n}", L.SpladeLoss(**weights), partial(naive.splade, DOT, **weights), roles, lexical=True)
        for n, roles in NEGATIVES.items()
    ]
    variants: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "l1": ({"query_regularizer": "l1", "document_regularizer": "l1"}, {"query": naive.l1, "document": naive.l1}),
        "threshold": (
            {"query_threshold": 3, "document_threshold": 2},
            {"query": partial(naive.flops, threshold=3), "document": partial(naive.flops, threshold=2)},
        ),
        "l1-threshold": (
            {"query_regularizer": "l1", "query_threshold": 3, "document_threshold": 2},
            {"query": partial(naive.l1, threshold=3), "document": partial(naive.flops, threshold=2)},
        ),
        "documents": ({"documents_only": True}, {"documents_only": True}),
        "inference_free": ({"query_weight": 0.0}, {"query_weight": 0.0}),
    }
    for name, (options, reference) in variants.items():
        made = L.SpladeLoss(**{**weights, **options})
        cases.append(LossCase(f"splade-{name}", made, partial(naive.splade, DOT, **{**weights, **reference}), NEGATIVES[1], lexical=True))
    inner: list[tuple[str, L.Loss, Callable[..., Tensor], tuple[str, ...], str | None]] = [
        ("cosent", L.CoSENTLoss(), naive.cosent, PAIR, "score"),
        ("triplet", L.TripletLoss(triplet_margin=0.5), partial(naive.triplet, triplet_margin=0.5), NEGATIVES[3], None),
        ("margin_mse", L.MarginMSELoss(), naive.margin_mse, NEGATIVES[3], "scores"),
        ("mse", L.MSELoss(), naive.mse, PAIR, "vectors"),
        ("sparse_mnrl", L.SparseMultipleNegativesRankingLoss(), DOT, NEGATIVES[1], None),
    ]
    for name, loss, main, roles, targets in inner:
        made = L.SpladeLoss(loss=loss, **weights)
        cases.append(LossCase(f"splade-{name}", made, partial(naive.splade, main, **weights), roles, targets, lexical=True))
    terms = {"a": L.Term(L.SpladeLoss(**weights), 0.5), "b": L.Term(L.TripletLoss(triplet_margin=0.5), 2.0)}

    def both(values: dict[str, Tensor], targets: Any) -> Tensor:
        return 0.5 * naive.splade(DOT, values, **weights) + 2.0 * naive.triplet(values, triplet_margin=0.5)

    return [*cases, LossCase("sum-splade", L.SumLoss(terms=terms), both, NEGATIVES[1], lexical=True)]


def csr_cases() -> list[LossCase]:
    mains: dict[str, tuple[L.Loss, Callable[..., Tensor], tuple[str, ...], str | None]] = {
        "mnrl": (L.CSRLoss().loss, partial(naive.mnrl, similarity="dot", scale=1.0), PAIR, None),
        "negatives": (L.CSRLoss().loss, partial(naive.mnrl, similarity="dot", scale=1.0), NEGATIVES[3], None),
        "triplet": (L.TripletLoss(triplet_margin=0.5), partial(naive.triplet, triplet_margin=0.5), NEGATIVES[1], None),
        "cosent": (L.CoSENTLoss(), naive.cosent, PAIR, "score"),
    }
    weights: dict[str, dict[str, float]] = {"default": {}, "heavy": {"beta": 2.0, "gamma": 0.5}}
    return [
        LossCase(
            f"csr-{name}-{w}",
            L.CSRLoss(loss=loss, **options),
            partial(naive_csr.csr, main=main, **options),
            (*roles, *(f"{role}/{output}" for role in roles for output in sorted(OUTPUTS))),
            targets,
        )
        for name, (loss, main, roles, targets) in mains.items()
        for w, options in weights.items()
    ]


CASES: tuple[LossCase, ...] = (
    *ranking_cases(),
    *order_cases(),
    *pair_cases(),
    *triplet_cases(),
    LossCase("mse-shared", L.MSELoss(), naive.mse, PAIR, "vector"),
    LossCase("mse-roles", L.MSELoss(), naive.mse, NEGATIVES[1], "vectors"),
    *wrapper_cases(),
    *distillation_cases(),
    LossCase("sparse_mnrl", L.SparseMultipleNegativesRankingLoss(), DOT, NEGATIVES[1], lexical=True),
    *splade_cases(),
    *csr_cases(),
)
