"""Cases of the losses that look at another model, at earlier layers, or at parameters of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stpipe import losses as L
from stpipe.core.tokens import Tokens
from stpipe.losses.base import ModelFacts
from stpipe.losses.objective import Objective
from stpipe.ops.convert import upcast
from tests.losses import naive
from tests.losses import naive_further as further
from tests.losses.cases import NEGATIVES, PAIR, WIDTH, LossCase

WORDS = 9  # of the vocabulary of the decoder
STEP_LAYERS = {1: (2,), 2: (0, 2), 3: (0, 2, 3)}


def with_teacher(name: str, roles: tuple[str, ...]) -> tuple[str, ...]:
    return (*roles, *(f"{name}@{role}" for role in roles))


def learning(loss: L.Loss) -> tuple[Mapping[Any, nn.Module], dict[str, Tensor]]:
    """What a loss learns, as a context takes it, and its weights for the float64 loop (constants there)."""
    objective = Objective(loss, ModelFacts(WIDTH, decoder=lambda path: Bigrams()), seed=3)
    weights = {name: p.detach().double() for name, p in next(iter(objective.learned.values())).named_parameters()}
    return dict(zip(objective.keys, objective.learned.values(), strict=True)), weights


class Bigrams(nn.Module):
    """The least that can write a text from a vector: each word from the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(torch.randn(WORDS, 4))
        self.from_vector = nn.Parameter(torch.randn(4, WIDTH))
        self.to_words = nn.Parameter(torch.randn(WORDS, 4))

    def forward(self, vectors: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        vectors = upcast(vectors)
        with torch.autocast("cpu", enabled=False):
            nll = []
            for x, words in zip(vectors, tokens.ids.split(tokens.lengths.tolist()), strict=True):
                hidden = self.embeddings[words[:-1]].to(x.dtype) + x @ self.from_vector.to(x.dtype).T
                log_p = torch.log_softmax(hidden @ self.to_words.to(x.dtype).T, dim=1)
                nll.append(-log_p.gather(1, words[1:, None]).sum())
            return torch.stack(nll), (tokens.lengths - 1).to(vectors.device)


def guided_cases() -> list[LossCase]:
    options: dict[str, dict[str, Any]] = {
        "default": {"temperature": 0.1},
        "absolute": {"temperature": 0.1, "margin": 0.1},
        "relative": {"temperature": 0.1, "margin": 0.2, "margin_strategy": "relative"},
        "lenient": {"temperature": 0.2, "margin": -0.3},
        "docs": {"temperature": 0.1, "contrast_anchors": False, "contrast_positives": False},
    }
    cases = [
        LossCase(f"gist-{name}-{n}", L.GISTEmbedLoss(**o), partial(further.gist_embed, **o), with_teacher("guide", roles))
        for name, o in options.items()
        for n, roles in NEGATIVES.items()
    ]
    for n, roles in NEGATIVES.items():
        strict = {"positive_margin": 0.95, "negative_margin": -0.2}
        cases.append(LossCase(f"mega_batch-{n}", L.MegaBatchMarginLoss(), further.mega_batch_margin, roles))
        cases.append(
            LossCase(f"mega_batch-strict-{n}", L.MegaBatchMarginLoss(**strict), partial(further.mega_batch_margin, **strict), roles)
        )
    return cases


def orthogonal_cases() -> list[LossCase]:
    options: dict[str, dict[str, Any]] = {
        "default": {},
        "gemma": {"mean_weight": 0.0, "aggregation": "sum"},
        "mean": {"second_moment_weight": 0.0, "mean_weight": 3.0},
        "dot": {"similarity": "dot", "mean_weight": 0.3},
    }
    cases = [
        LossCase(f"gor-{name}-{n}", L.GlobalOrthogonalRegularizationLoss(**o), partial(further.gor, **o), roles)
        for name, o in options.items()
        for n, roles in ((0, ("anchor",)), (1, NEGATIVES[1]))
    ]
    wide = L.GlobalOrthogonalRegularizationLoss()  # more dimensions than rows: the other product
    return [*cases, LossCase("gor-wide", wide, further.gor, PAIR, width=11)]


def learned_cases() -> list[LossCase]:
    cases = []
    for negatives in (0, 3):
        loss = L.MultipleNegativesRankingLoss(scale=7.0, learn_scale=True)
        reference = partial(naive.mnrl, scale=7.0)
        cases.append(LossCase(f"mnrl-learned-{negatives}", loss, reference, NEGATIVES[negatives], learned=learning(loss)[0]))
    for similarity, scale in (("cosine", 20.0), ("dot", 1.0)):
        for learn in (True, False):
            tension = L.ContrastiveTensionLossInBatchNegatives(scale=scale, similarity=similarity, learn_scale=learn)  # type: ignore[arg-type]
            reference = partial(further.contrastive_tension, scale=scale, similarity=similarity)
            made = learning(tension)[0] if learn else {}
            cases.append(LossCase(f"tension-{similarity}-{learn}", tension, reference, with_teacher("twin", ("anchor",)), learned=made))
    roles = (*PAIR, "twin@anchor")
    for targets in ("binary", "score"):
        cases.append(LossCase(f"tension_pairs-{targets}", L.ContrastiveTensionLoss(), further.contrastive_tension_pairs, roles, targets))
    features = {"u": "concatenation_sent_rep", "d": "concatenation_sent_difference", "m": "concatenation_sent_multiplication"}
    for chosen in ("updm", "upd", "up", "d", "m", "um"):
        classifier = L.SoftmaxLoss(num_labels=3, **{name: key in chosen for key, name in features.items()})
        modules, weights = learning(classifier)
        seen = chosen if "p" in chosen or "u" not in chosen else chosen.replace("u", "up")
        reference = partial(further.softmax, features=seen, **weights)
        cases.append(LossCase(f"softmax-{chosen}", classifier, reference, PAIR, "classes", learned=modules))
    inner = L.SoftmaxLoss(num_labels=3)
    modules, weights = learning(inner)
    prefixes = partial(naive.matryoshka, partial(further.softmax, width=WIDTH, **weights), dims=(6, 3), weights=(1.0, 0.5))
    wrapped = L.MatryoshkaLoss(loss=inner, dims=(6, 3), weights=(1.0, 0.5))
    return [*cases, LossCase("matryoshka-softmax", wrapped, prefixes, PAIR, "classes", learned=modules)]


def teacher_cases() -> list[LossCase]:
    cases = []
    for metric in ("cosine", "l2", "mse"):
        for targets, roles in (("vector", PAIR), ("vectors", NEGATIVES[1])):
            loss = L.EmbedDistillLoss(distance_metric=metric)  # type: ignore[arg-type]
            cases.append(
                LossCase(f"embed_distill-{metric}-{targets}", loss, partial(further.embed_distill, distance_metric=metric), roles, targets)
            )
        mapped = L.EmbedDistillLoss(distance_metric=metric, projection_dim=WIDTH)  # type: ignore[arg-type]
        modules, weights = learning(mapped)
        reference = partial(further.embed_distill, distance_metric=metric, **weights)
        cases.append(LossCase(f"embed_distill-{metric}-map", mapped, reference, PAIR, "vectors", learned=modules))
    denoising = L.DenoisingAutoEncoderLoss()
    modules, weights = learning(denoising)
    return [*cases, LossCase("denoising", denoising, partial(further.denoising, **weights), ("anchor",), "tokens", learned=modules)]


def layer_cases() -> list[LossCase]:
    def case(id: str, loss: L.Loss, reference: Callable[..., Tensor], roles: tuple[str, ...], *, targets: str | None = None) -> LossCase:
        views = tuple(f"{role}/layer_{k}" for role in roles for k in (0, 2, 3))
        return LossCase(f"adaptive_layer-{id}", loss, reference, (*roles, *views), targets)

    options: dict[str, dict[str, Any]] = {
        "default": {},
        "log": {"layer_weighting": "log", "last_layer_weight": 0.5, "prior_layers_weight": 2.0},
        "linear": {"layer_weighting": "linear", "kl_div_weight": 0.3, "kl_temperature": 1.0},
        "no_kl": {"kl_temperature": 0.0},
    }
    cases = []
    for name, o in options.items():
        loss = L.AdaptiveLayerLoss(loss=L.MultipleNegativesRankingLoss(), layers=(3, 0, 2), n_layers_per_step=None, **o)
        reference = partial(further.adaptive_layer, naive.mnrl, layers=(0, 2, 3), **o)
        cases.append(case(name, loss, reference, NEGATIVES[1]))
    cosent = L.AdaptiveLayerLoss(loss=L.CoSENTLoss(), layers=(2,))
    cases.append(case("cosent", cosent, partial(further.adaptive_layer, naive.cosent, layers=(2,)), PAIR, targets="score"))
    dims: dict[str, Any] = {"dims": (6, 3), "weights": (1.0, 0.5)}
    both = L.Matryoshka2dLoss(loss=L.MultipleNegativesRankingLoss(), layers=(0, 2, 3), n_layers_per_step=None, n_dims_per_step=None, **dims)
    prefixes = partial(naive.matryoshka, naive.mnrl, **dims)
    return [*cases, case("2d", both, partial(further.adaptive_layer, prefixes, layers=(0, 2, 3)), PAIR)]


FURTHER: tuple[LossCase, ...] = (
    *guided_cases(),
    *orthogonal_cases(),
    *learned_cases(),
    *teacher_cases(),
    *layer_cases(),
)
