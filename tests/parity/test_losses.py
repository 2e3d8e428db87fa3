"""Value and gradient of every loss against the class of the same name in sentence-transformers 6.2.

Its losses own the forward pass, so they are given a model that returns its input. Where the two differ on purpose, the
test says by how much, and docs/losses.md says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sentence_transformers import util
from sentence_transformers.sentence_transformer import losses as ST
from sentence_transformers.sentence_transformer.losses.batch_hard_triplet import BatchHardTripletLossDistanceFunction as BatchDistance
from sentence_transformers.sentence_transformer.losses.contrastive import SiameseDistanceMetric
from sentence_transformers.sentence_transformer.losses.triplet import TripletDistanceMetric
from torch import Tensor, nn

from stpipe import losses as L
from stpipe.core.batch import Targets
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from tests.losses import naive

ROWS, WIDTH = 12, 16
CTX = StepContext()
SIMILARITY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": util.cos_sim,
    "dot": util.dot_score,
    "euclidean": util.euclidean_sim,
    "manhattan": util.manhattan_sim,
}
PAIRWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": util.pairwise_cos_sim,
    "dot": util.pairwise_dot_score,
    "euclidean": util.pairwise_euclidean_sim,
    "manhattan": util.pairwise_manhattan_sim,
}


class Identity(nn.Module):
    """A model whose texts are their embeddings."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features["x"]}

    def get_embedding_dimension(self) -> int:
        return WIDTH


def roles(negatives: int) -> tuple[str, ...]:
    return ("anchor", "positive", *(f"negative_{k + 1}" for k in range(negatives)))


def values(names: tuple[str, ...], *, seed: int = 0, rows: int = ROWS) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    centre = torch.randn(WIDTH, generator=g)
    return {r: (centre + torch.randn(rows, WIDTH, generator=g)).requires_grad_() for r in names}


def run(value: Tensor, x: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    grads = torch.autograd.grad(value, list(x.values()), allow_unused=True)
    return value.detach(), [torch.zeros_like(v) if g is None else g for v, g in zip(x.values(), grads, strict=True)]


def ours(loss: L.Loss, x: dict[str, Tensor], targets: Targets) -> tuple[Tensor, list[Tensor]]:
    return run(loss(RepBatch.from_values(x, targets=targets), CTX).mean, x)


def theirs(loss: nn.Module, x: dict[str, Tensor], labels: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    return run(loss([{"x": v} for v in x.values()], labels), x)


def assert_same(a: tuple[Tensor, list[Tensor]], b: tuple[Tensor, list[Tensor]]) -> None:
    assert abs(float(b[0])) > 1e-3
    torch.testing.assert_close(a[0], b[0], rtol=1e-5, atol=1e-6)
    largest = max(float(g.abs().max()) for g in b[1])
    assert largest > 1e-4, "no gradient to compare"
    for x, y in zip(a[1], b[1], strict=True):
        assert float((x - y).abs().max()) <= 1e-5 * max(largest, 1.0)


SCORES = torch.randint(0, 6, (ROWS,), generator=torch.Generator().manual_seed(4)) / 5
BINARY = torch.arange(ROWS) % 2
CLASSES = torch.tensor([3, 3, 1, 1, 1, 0, 0, 3, 2, 2, 0, 1])


@pytest.mark.parametrize("negatives", [0, 1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 1.0, "similarity": "dot"},
        {"scale": 2.0, "similarity": "euclidean"},
        {"scale": 0.5, "similarity": "manhattan"},
        {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
        {"directions": ("query_to_doc", "doc_to_query")},
        {"directions": ("query_to_doc", "query_to_query")},
        {"directions": ("query_to_doc", "doc_to_doc")},
        {"directions": ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")},
        {"hardness_mode": "in_batch_negatives", "hardness_strength": 9.0},
        {"hardness_mode": "hard_negatives", "hardness_strength": 5.0},
        {"hardness_mode": "all_negatives", "hardness_strength": 5.0, "directions": ("query_to_doc", "doc_to_doc")},
    ],
    ids=str,
)
def test_multiple_negatives_ranking(negatives: int, options: dict[str, Any]) -> None:
    x = values(roles(negatives))
    reference = dict(options)
    similarity = reference.pop("similarity", "cosine")
    peer = ST.MultipleNegativesRankingLoss(Identity(), similarity_fct=SIMILARITY[similarity], **reference)  # type: ignore[arg-type]
    assert_same(ours(L.MultipleNegativesRankingLoss(**options), x, Targets()), theirs(peer, x, None))


def test_multiple_negatives_symmetric_ranking() -> None:
    x = values(roles(1))
    loss = L.MultipleNegativesRankingLoss(directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        peer = ST.MultipleNegativesSymmetricRankingLoss(Identity())  # type: ignore[arg-type]
    assert_same(ours(loss, x, Targets()), theirs(peer, x, None))


@pytest.mark.parametrize("similarity", list(PAIRWISE))
def test_cosent(similarity: str) -> None:
    x = values(roles(0))
    peer = ST.CoSENTLoss(Identity(), scale=2.0, similarity_fct=PAIRWISE[similarity])  # type: ignore[arg-type]
    assert_same(ours(L.CoSENTLoss(scale=2.0, similarity=similarity), x, Targets(score=SCORES)), theirs(peer, x, SCORES))  # type: ignore[arg-type]


@pytest.mark.parametrize("negatives", [0, 1, 3])
def test_angle(negatives: int) -> None:
    x = values(roles(negatives))
    peer = ST.AnglELoss(Identity())  # type: ignore[arg-type]
    labels = None if negatives else SCORES
    assert_same(ours(L.AnglELoss(), x, Targets(score=labels)), theirs(peer, x, labels))


@pytest.mark.parametrize(
    ("name", "peer"), [("mse", nn.MSELoss()), ("mae", nn.L1Loss()), ("huber", nn.HuberLoss()), ("bce", nn.BCEWithLogitsLoss())]
)
@pytest.mark.parametrize(("transform", "module"), [("identity", nn.Identity()), ("relu", nn.ReLU()), ("sigmoid", nn.Sigmoid())])
def test_cosine_similarity(name: Any, peer: nn.Module, transform: Any, module: nn.Module) -> None:
    x = values(roles(0))
    reference = ST.CosineSimilarityLoss(Identity(), loss_fct=peer, cos_score_transformation=module)  # type: ignore[arg-type]
    loss = L.CosineSimilarityLoss(loss_fct=name, cos_score_transformation=transform)
    assert_same(ours(loss, x, Targets(score=SCORES)), theirs(reference, x, SCORES))


@pytest.mark.parametrize(
    ("metric", "peer", "margin"),
    [
        ("cosine", SiameseDistanceMetric.COSINE_DISTANCE, 0.5),
        ("euclidean", SiameseDistanceMetric.EUCLIDEAN, 6.0),
        ("manhattan", SiameseDistanceMetric.MANHATTAN, 20.0),
    ],
)
def test_contrastive_losses(metric: Any, peer: Any, margin: float) -> None:
    """Its Euclidean distance adds 1e-6 to every coordinate, which is below the tolerance."""
    x = values(roles(0))
    targets = Targets(label=BINARY)
    for mine, reference in (
        (L.ContrastiveLoss(metric=metric, margin=margin), ST.ContrastiveLoss(Identity(), distance_metric=peer, margin=margin)),  # type: ignore[arg-type]
        (L.OnlineContrastiveLoss(metric=metric, margin=margin), ST.OnlineContrastiveLoss(Identity(), distance_metric=peer, margin=margin)),  # type: ignore[arg-type]
    ):
        assert_same(ours(mine, x, targets), theirs(reference, x, BINARY))


@pytest.mark.parametrize(
    ("metric", "peer", "margin"),
    [
        ("cosine", TripletDistanceMetric.COSINE, 0.2),
        ("euclidean", TripletDistanceMetric.EUCLIDEAN, 5.0),
        ("manhattan", TripletDistanceMetric.MANHATTAN, 2.0),
    ],
)
def test_triplet(metric: Any, peer: Any, margin: float) -> None:
    x = values(roles(1))
    reference = ST.TripletLoss(Identity(), distance_metric=peer, triplet_margin=margin)  # type: ignore[arg-type]
    assert_same(ours(L.TripletLoss(metric=metric, triplet_margin=margin), x, Targets()), theirs(reference, x, None))


@pytest.mark.parametrize(
    ("metric", "distance", "margin"), [("euclidean", BatchDistance.euclidean_distance, 1.0), ("cosine", BatchDistance.cosine_distance, 0.2)]
)
@pytest.mark.parametrize(
    ("mine", "peer"),
    [
        (L.BatchHardTripletLoss, ST.BatchHardTripletLoss),
        (L.BatchSemiHardTripletLoss, ST.BatchSemiHardTripletLoss),
        (L.BatchAllTripletLoss, ST.BatchAllTripletLoss),
        (L.BatchHardSoftMarginTripletLoss, ST.BatchHardSoftMarginTripletLoss),
    ],
)
def test_batch_triplets(mine: Any, peer: Any, metric: str, distance: Any, margin: float) -> None:
    x = values(("anchor",))
    options = {} if mine is L.BatchHardSoftMarginTripletLoss else {"margin": margin}
    reference = peer(Identity(), distance_metric=distance, **options)
    assert_same(ours(mine(metric=metric, **options), x, Targets(label=CLASSES)), theirs(reference, x, CLASSES))


@pytest.mark.parametrize("per_role", [False, True])
def test_mse(per_role: bool) -> None:
    x = values(roles(1))
    y = torch.randn(ROWS, 3, WIDTH) if per_role else torch.randn(ROWS, WIDTH)
    vectors = {role: y[:, i] for i, role in enumerate(x)} if per_role else {"*": y}
    assert_same(ours(L.MSELoss(), x, Targets(vectors=vectors)), theirs(ST.MSELoss(Identity()), x, y))  # type: ignore[arg-type]


# --- Matryoshka ----------------------------------------------------------------------------------------------------------------

DIMS, WEIGHTS = (16, 8, 4), (1.0, 0.5, 2.0)


def peer_matryoshka(inner: Callable[[nn.Module], nn.Module]) -> nn.Module:
    model = Identity()
    return ST.MatryoshkaLoss(model, inner(model), DIMS, WEIGHTS)  # type: ignore[arg-type]


def test_matryoshka_under_cosine() -> None:
    x = values(roles(1))
    peer = peer_matryoshka(lambda m: ST.MultipleNegativesRankingLoss(m))  # type: ignore[arg-type]
    loss = L.MatryoshkaLoss(loss=L.MultipleNegativesRankingLoss(), dims=DIMS, weights=WEIGHTS)
    assert_same(ours(loss, x, Targets()), theirs(peer, x, None))


def test_matryoshka_of_cosent() -> None:
    x = values(roles(0))
    peer = peer_matryoshka(lambda m: ST.CoSENTLoss(m))  # type: ignore[arg-type]
    assert_same(ours(L.MatryoshkaLoss(loss=L.CoSENTLoss(), dims=DIMS, weights=WEIGHTS), x, Targets(score=SCORES)), theirs(peer, x, SCORES))


@pytest.mark.parametrize(
    ("mine", "peer", "reference"),
    [
        (
            L.MultipleNegativesRankingLoss(similarity="dot", scale=1.0),
            lambda m: ST.MultipleNegativesRankingLoss(m, scale=1.0, similarity_fct=util.dot_score),
            lambda v, t: naive.mnrl(v, t, similarity="dot", scale=1.0),
        ),
        (L.TripletLoss(), lambda m: ST.TripletLoss(m), naive.triplet),
    ],
    ids=["dot", "euclidean"],
)
def test_matryoshka_does_not_normalise_behind_the_similarity(mine: L.Loss, peer: Any, reference: Any) -> None:
    """sentence-transformers scales every prefix to length 1, also the full one; the float64 loop of the definition decides."""
    x = values(roles(0 if isinstance(mine, L.MultipleNegativesRankingLoss) else 1))
    options: dict[str, Any] = {"loss": mine, "dims": DIMS, "weights": WEIGHTS}
    found = ours(L.MatryoshkaLoss(**options), x, Targets())
    exact = {r: v.detach().double().requires_grad_() for r, v in x.items()}
    expected = run(naive.matryoshka(reference, exact, None, dims=DIMS, weights=WEIGHTS), exact)
    assert_same((found[0].double(), [g.double() for g in found[1]]), expected)
    other = theirs(peer_matryoshka(peer), x, None)
    assert abs(float(other[0] - found[0])) > 0.02 * float(found[0])
    assert_same(ours(L.MatryoshkaLoss(**options, normalize=True), x, Targets()), other)  # the option gives its value


def test_matryoshka_cuts_student_and_teacher_alike() -> None:
    """There the student's prefix is scaled to length 1 and the teacher's is not, so even a perfect student has a loss."""
    y = torch.randn(ROWS, WIDTH)
    x = {"anchor": y.clone().requires_grad_()}
    found = ours(L.MatryoshkaLoss(loss=L.MSELoss(), dims=DIMS), x, Targets(vectors={"*": y}))
    model = Identity()
    other = theirs(ST.MatryoshkaLoss(model, ST.MSELoss(model), DIMS), x, y)  # type: ignore[arg-type]
    assert float(found[0]) == 0
    assert float(other[0]) > 0.5


# --- other differences on purpose ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "peer", "reference"),
    [
        (
            L.BatchHardTripletLoss(margin=1.0),
            lambda m: ST.BatchHardTripletLoss(m, margin=1.0),
            lambda v, t: naive.batch_hard(v, t, margin=1.0),
        ),
        (
            L.BatchHardSoftMarginTripletLoss(),
            lambda m: ST.BatchHardSoftMarginTripletLoss(m),
            lambda v, t: naive.batch_hard(v, t, soft=True),
        ),
    ],
    ids=["batch_hard", "soft_margin"],
)
def test_texts_without_a_triplet(mine: L.Loss, peer: Any, reference: Any) -> None:
    """A text whose class has no other member counts as its own positive there; here it makes no triplet."""
    x, label = values(("anchor",), rows=6), torch.tensor([1, 1, 2, 2, 8, 9])
    found = ours(mine, x, Targets(label=label))
    torch.testing.assert_close(found[0].double(), reference({"anchor": x["anchor"].detach().double()}, label), rtol=1e-5, atol=1e-6)
    assert abs(float(theirs(peer(Identity()), x, label)[0] - found[0])) > 1e-3


def test_duplicate_positives() -> None:
    """Equal texts are negatives of each other there; switched off, the values are the same."""
    x = values(roles(0))
    text_id = {"anchor": torch.arange(ROWS), "positive": 100 + torch.arange(ROWS) % 5}
    batch = RepBatch.from_values(x, text_id=text_id)
    other = theirs(ST.MultipleNegativesRankingLoss(Identity()), x, None)  # type: ignore[arg-type]
    assert_same(run(L.MultipleNegativesRankingLoss(mask_duplicates=False)(batch, CTX).mean, x), other)
    assert float(other[0]) - float(L.MultipleNegativesRankingLoss()(batch, CTX).mean.detach()) > 1e-2
