"""Value and gradient of the losses of cross-encoders against the classes of the same name in sentence-transformers 6.2.

Its losses make the pairs and own the forward pass, so they are given a model whose texts are numbers of prepared logits. Where the two
differ on purpose, the test says by how much, and docs/losses.md says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from sentence_transformers.cross_encoder import CrossEncoder
from sentence_transformers.cross_encoder import losses as ST
from torch import Tensor, nn

from stpipe import losses as L
from stpipe.core.batch import Targets
from stpipe.core.context import StepContext
from stpipe.core.scores import ScoreBatch

CTX = StepContext()
COUNTS = (4, 1, 6, 3, 5, 2)
ROWS = 6
ACTIVATIONS = ["Identity", "Sigmoid", "Tanh", "GELU"]


class Prepared(CrossEncoder):
    """A cross-encoder that looks its logits (queries, documents, outputs) up; the texts are their numbers. `seen`: all pairs asked for."""

    def __init__(self, table: Tensor) -> None:
        nn.Module.__init__(self)
        self.table = table
        self.seen: list[tuple[int, int]] = []

    @property
    def device(self) -> torch.device:
        return self.table.device

    @property
    def num_labels(self) -> int:
        return self.table.shape[-1]

    def preprocess(self, inputs: Sequence[tuple[str, str]], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        pairs = [(int(query), int(document)) for query, document in inputs]
        self.seen += pairs
        return {"pairs": torch.tensor(pairs)}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"scores": self.table[features["pairs"][:, 0], features["pairs"][:, 1]]}


def numbers(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def table(rows: int, documents: int, *, outputs: int = 1, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (1.5 * torch.randn(rows, documents, outputs, generator=g)).requires_grad_()


def run(value: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    (gradient,) = torch.autograd.grad(value, x)
    return value.detach(), gradient


def assert_same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> None:
    assert abs(float(b[0])) > 1e-3
    torch.testing.assert_close(a[0], b[0], rtol=1e-5, atol=1e-6)
    largest = float(b[1].abs().max())
    assert largest > 1e-4, "no gradient to compare"
    assert float((a[1] - b[1]).abs().max()) <= 1e-5 * max(largest, 1.0)


# --- pairs -------------------------------------------------------------------------------------------------------------------------------


def pair_batch(x: Tensor, targets: Targets) -> ScoreBatch:
    """Row i is the query i with the document 0."""
    return ScoreBatch(x, torch.ones(x.shape[:2], dtype=torch.bool), targets)


def their_pairs(loss: nn.Module, rows: int, labels: Tensor) -> Tensor:
    value: Tensor = loss([numbers(rows), ["0"] * rows], labels)
    return value


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("pos_weight", [None, 4.0])
def test_binary_cross_entropy(activation: Any, pos_weight: float | None) -> None:
    x, labels = table(ROWS, 1), torch.tensor([1.0, 0.0, 0.3, 0.0, 1.0, 0.9])
    weight = None if pos_weight is None else torch.tensor(pos_weight)
    peer = ST.BinaryCrossEntropyLoss(Prepared(x), activation_fn=getattr(nn, activation)(), pos_weight=weight)
    loss = L.BinaryCrossEntropyLoss(activation=activation, pos_weight=pos_weight)
    assert_same(run(loss(pair_batch(x, Targets(score=labels)), CTX).mean, x), run(their_pairs(peer, ROWS, labels), x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(activation: Any, smoothing: float) -> None:
    x, labels = table(ROWS, 1, outputs=3), torch.tensor([0, 2, 1, 1, 0, 2])
    peer = ST.CrossEntropyLoss(Prepared(x), activation_fn=getattr(nn, activation)(), label_smoothing=smoothing)
    loss = L.CrossEntropyLoss(activation=activation, label_smoothing=smoothing)
    assert_same(run(loss(pair_batch(x, Targets(label=labels)), CTX).mean, x), run(their_pairs(peer, ROWS, labels), x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mse(activation: Any) -> None:
    x, labels = table(ROWS, 1), torch.randn(ROWS)
    peer = ST.MSELoss(Prepared(x), activation_fn=getattr(nn, activation)())
    loss = L.RerankerMSELoss(activation=activation)
    assert_same(run(loss(pair_batch(x, Targets(score=labels)), CTX).mean, x), run(their_pairs(peer, ROWS, labels), x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("negatives", [1, 3])
@pytest.mark.parametrize("as_scores", [False, True])
def test_margin_mse(activation: Any, negatives: int, as_scores: bool) -> None:
    x, labels = table(ROWS, 1 + negatives), torch.randn(ROWS, negatives + as_scores)
    peer = ST.MarginMSELoss(Prepared(x), activation_fn=getattr(nn, activation)())
    columns = [numbers(ROWS), *([str(j)] * ROWS for j in range(1 + negatives))]
    loss = L.RerankerMarginMSELoss(activation=activation)
    assert_same(run(loss(pair_batch(x, Targets(scores=labels)), CTX).mean, x), run(peer(columns, list(labels)), x))


# --- the positive against negatives ----------------------------------------------------------------------------------------------------------


def candidate_batch(x: Tensor, candidates: Sequence[Sequence[int]]) -> ScoreBatch:
    """Row i is the query i with these documents."""
    flat = torch.cat([x[i, list(documents)] for i, documents in enumerate(candidates)])
    return ScoreBatch.from_flat(flat, torch.tensor([len(documents) for documents in candidates]))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("hard", [0, 1, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_negatives": None}, {"num_negatives": 2, "scale": 3.0}, {"num_negatives": 50, "activation": "Identity", "scale": 1.0}],
    ids=str,
)
def test_multiple_negatives_ranking(cached: bool, hard: int, options: dict[str, Any]) -> None:
    """The negatives that its random numbers drew are given to ours, in another order."""
    x = table(ROWS, ROWS * (1 + hard))
    activation = options.get("activation", "Sigmoid")
    reference = {k: v for k, v in options.items() if k != "activation"}
    model = Prepared(x)
    cls = ST.CachedMultipleNegativesRankingLoss if cached else ST.MultipleNegativesRankingLoss
    peer = cls(model, activation_fn=getattr(nn, activation)(), **reference)
    columns = [numbers(ROWS), *([str(c * ROWS + i) for i in range(ROWS)] for c in range(1 + hard))]
    value = peer(columns, None)
    seen = model.seen[: len(model.seen)]
    if cached:
        x.grad = None
        value.backward()
        assert x.grad is not None
        theirs = (value.detach(), x.grad.clone())
    else:
        theirs = run(value, x)
    candidates = [[i, *(j for q, j in reversed(seen) if q == i and j != i)] for i in range(ROWS)]
    assert len({len(c) for c in candidates}) == 1
    loss = L.RerankerMultipleNegativesRankingLoss(**options)
    sampled = min(loss.sampled_negatives(), (ROWS - 1) * (1 + hard))
    assert len(candidates[0]) == 1 + hard + sampled
    assert_same(run(loss(candidate_batch(x, candidates), CTX).mean, x), theirs)


# --- lists -------------------------------------------------------------------------------------------------------------------------------

GRADES = [[2.0, 0.0, 1.0, 0.0], [1.0], [0.0, 3.0, 3.0, 1.0, 0.0, 2.0], [1.0, 1.0, 1.0], [0.2, 0.9, 0.0, 0.9, 0.5], [0.0, 1.0]]


def list_batch(x: Tensor, grades: Sequence[Sequence[float]]) -> ScoreBatch:
    """Row i is the query i with its first documents, as many as it has labels."""
    counts = [len(row) for row in grades]
    flat = torch.cat([x[i, :count] for i, count in enumerate(counts)])
    scores = torch.tensor([[*row, *[math.nan] * (max(counts) - len(row))] for row in grades])
    return ScoreBatch.from_flat(flat, torch.tensor(counts), targets=Targets(scores=scores))


def compare_lists(loss: L.Loss, cls: Any, options: dict[str, Any], grades: Sequence[Sequence[float]] = GRADES) -> None:
    for seed in range(3):
        x = table(len(grades), max(len(row) for row in grades), seed=seed)
        theirs = cls(Prepared(x), **options)(
            [numbers(len(grades)), [numbers(len(row)) for row in grades]], [torch.tensor(r) for r in grades]
        )
        assert_same(run(loss(list_batch(x, grades), CTX).mean, x), run(theirs, x))


SCHEMES = {
    "none": ST.NoWeightingScheme,
    "ndcg1": ST.NDCGLoss1Scheme,
    "ndcg2": ST.NDCGLoss2Scheme,
    "lambda_rank": ST.LambdaRankScheme,
    "ndcg2pp": ST.NDCGLoss2PPScheme,
}


@pytest.mark.parametrize("weighting", SCHEMES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 1},
        {"k": 3},
        {"k": 100},
        {"sigma": 2.5},
        {"reduction_log": "natural"},
        {"eps": 2.0},
    ],
    ids=str,
)
def test_lambda(weighting: Any, options: dict[str, Any]) -> None:
    compare_lists(L.LambdaLoss(weighting=weighting, **options), ST.LambdaLoss, {"weighting_scheme": SCHEMES[weighting](), **options})


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_lambda_defaults(activation: Any) -> None:
    compare_lists(L.LambdaLoss(activation=activation), ST.LambdaLoss, {"activation_fn": getattr(nn, activation)()})
    mu = {"weighting_scheme": ST.NDCGLoss2PPScheme(mu=0.5)}
    compare_lists(L.LambdaLoss(mu=0.5), ST.LambdaLoss, mu)


def test_lambda_of_labels_below_zero() -> None:
    compare_lists(L.LambdaLoss(), ST.LambdaLoss, {}, [[-3.0, 2.0, -1.0], [0.5, -0.5, 1.5, -9.0]])


@pytest.mark.parametrize("options", [{}, {"k": 2}, {"sigma": 0.5, "reduction_log": "natural"}], ids=str)
def test_ranknet(options: dict[str, Any]) -> None:
    compare_lists(L.RankNetLoss(**options), ST.RankNetLoss, options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_listnet(activation: Any) -> None:
    compare_lists(L.ListNetLoss(activation=activation), ST.ListNetLoss, {"activation_fn": getattr(nn, activation)()})


#: No equal labels, whose order sentence-transformers leaves to chance.
STRICT = [[2.0, 0.0, 1.0, 0.5], [1.0], [0.0, 3.0, 3.5, 1.0, 0.5, 2.0], [0.1, 0.2, 0.3], [0.0, 1.0]]


@pytest.mark.parametrize("in_order", [True, False])
def test_listmle(in_order: bool) -> None:
    options: dict[str, Any] = {"respect_input_order": in_order}
    compare_lists(L.ListMLELoss(**options), ST.ListMLELoss, options, STRICT)


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("weight", ["halving", "logarithmic", None])
def test_plistmle(in_order: bool, weight: Any) -> None:
    """Its documentation shows the logarithmic weight as an example of a function of one's own."""

    def logarithmic(mask: Tensor) -> Tensor:
        return (1 / torch.log1p(mask.cumsum(-1))).masked_fill(~mask, 0)

    peers = {"halving": ST.PListMLELambdaWeight(), "logarithmic": ST.PListMLELambdaWeight(rank_discount_fn=logarithmic), None: None}
    loss = L.PListMLELoss(lambda_weight=weight, respect_input_order=in_order)
    compare_lists(loss, ST.PListMLELoss, {"lambda_weight": peers[weight], "respect_input_order": in_order}, STRICT)


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_adr_mse(alpha: float) -> None:
    compare_lists(L.ADRMSELoss(alpha=alpha), ST.ADRMSELoss, {"alpha": alpha})


# --- differences that docs/losses.md explains ------------------------------------------------------------------------------------------------


def test_equal_scores_follow_the_order_of_the_data_there() -> None:
    """One batch in two orders of its documents: two losses there, one here, that of the relevant document coming last."""
    x = torch.tensor([[0.4] * 4, [0.4] * 4])[..., None]
    first, last = [[1.0, 0.0, 0.0, 0.0]] * 2, [[0.0, 0.0, 0.0, 1.0]] * 2

    def theirs(grades: list[list[float]]) -> float:
        loss = ST.LambdaLoss(Prepared(x))
        return float(loss([numbers(2), [numbers(4)] * 2], [torch.tensor(row) for row in grades]))

    def ours(grades: list[list[float]]) -> float:
        return float(L.LambdaLoss()(list_batch(x, grades), CTX).mean)

    assert theirs(first) == pytest.approx(2.377, abs=1e-3)
    assert theirs(last) == pytest.approx(2.177, abs=1e-3)
    assert ours(first) == ours(last) == pytest.approx(theirs(last), rel=1e-5)


def test_labels_without_an_order_cost_nothing_on_both_sides() -> None:
    x = table(2, 3)
    grades = [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    theirs = ST.LambdaLoss(Prepared(x))([numbers(2), [numbers(3)] * 2], [torch.tensor(row) for row in grades])
    out = L.LambdaLoss()(list_batch(x, grades), CTX)
    assert float(theirs.detach()) == float(out.mean.detach()) == float(out.count) == 0
    (gradient,) = torch.autograd.grad(out.mean, x)
    assert float(gradient.abs().max()) == 0


def test_a_class_of_minus_100_is_left_out_there() -> None:
    x, labels = table(3, 1, outputs=2), torch.tensor([0, -100, 1])
    assert math.isfinite(float(their_pairs(ST.CrossEntropyLoss(Prepared(x)), 3, labels).detach()))
    with pytest.raises(RuntimeError, match="out of bounds"):
        L.CrossEntropyLoss()(pair_batch(x, Targets(label=labels)), CTX)
