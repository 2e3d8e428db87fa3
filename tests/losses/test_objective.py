"""What a loss learns itself: names, start values, sharing, gradients, saving."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stpipe.config.errors import ConfigError, DataError
from stpipe.core.batch import Targets
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.losses import (
    AdaptiveLayerLoss,
    EmbedDistillLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
    SoftmaxLoss,
    SumLoss,
    Term,
)
from stpipe.losses.base import ModelFacts
from stpipe.losses.learned import LearnedScale
from stpipe.losses.objective import Objective
from tests.losses import naive
from tests.losses import naive_further as further
from tests.losses.cases import PAIR, WIDTH
from tests.losses.test_suite import assert_close

FACTS = ModelFacts(WIDTH, num_layers=4)
CLASSIFIER = SoftmaxLoss(num_labels=3)
CTX = StepContext(step=2)


def batch(*, rows: int = 6, seed: int = 0) -> RepBatch:
    g = torch.Generator().manual_seed(seed)
    values = {role: torch.randn(rows, WIDTH, generator=g).requires_grad_() for role in PAIR}
    return RepBatch.from_values(values, targets=Targets(label=torch.arange(rows) % 3))


def exact(module: nn.Module) -> dict[str, Tensor]:
    return {name.rpartition(".")[2]: p.detach().double().requires_grad_() for name, p in module.named_parameters()}


def test_names_and_sizes() -> None:
    terms = {"a": Term(CLASSIFIER), "b": Term(SoftmaxLoss(num_labels=4)), "c": Term(MultipleNegativesRankingLoss(learn_scale=True))}
    found = {name: tuple(p.shape) for name, p in Objective(SumLoss(terms=terms), FACTS, seed=0).named_parameters()}
    assert found == {
        "learned.SoftmaxLoss.weight": (3, 3 * WIDTH),
        "learned.SoftmaxLoss.bias": (3,),
        "learned.SoftmaxLoss_2.weight": (4, 3 * WIDTH),
        "learned.SoftmaxLoss_2.bias": (4,),
        "learned.MultipleNegativesRankingLoss.log_scale": (1,),
    }


def test_most_losses_learn_nothing() -> None:
    objective = Objective(MatryoshkaLoss(loss=MultipleNegativesRankingLoss(), dims=(4,)), FACTS, seed=0)
    assert not list(objective.parameters()) and not objective.state_dict()
    found, expected = objective(batch(), CTX), objective.loss(batch(), CTX)
    assert torch.equal(found.sum, expected.sum)


def test_start_values_depend_on_the_seed_alone_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first = Objective(CLASSIFIER, FACTS, seed=1).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(5)
    again, other = (Objective(CLASSIFIER, FACTS, seed=s).state_dict() for s in (1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_equal_losses_share_what_they_learn() -> None:
    layers = AdaptiveLayerLoss(loss=MatryoshkaLoss(loss=CLASSIFIER, dims=(4, 2)), layers=(1,))
    objective = Objective(SumLoss(terms={"plain": Term(CLASSIFIER), "layers": Term(layers)}), FACTS, seed=0)
    assert [name for name, _ in objective.named_parameters()] == ["learned.SoftmaxLoss.weight", "learned.SoftmaxLoss.bias"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_gradients_of_the_classifier(wrapped: bool) -> None:
    loss: Any = MatryoshkaLoss(loss=CLASSIFIER, dims=(6, 3)) if wrapped else CLASSIFIER
    objective, rows = Objective(loss, FACTS, seed=0), batch()
    out = objective(rows, CTX)
    out.mean.backward()
    weights = exact(objective)
    values = {role: rows.local(role).detach().double() for role in PAIR}
    assert rows.targets.label is not None
    label = rows.targets.label.double()

    def reference(x: dict[str, Tensor], y: Tensor) -> Tensor:
        return further.softmax(x, y, width=WIDTH, **weights)

    expected = naive.matryoshka(reference, values, label, dims=(6, 3), weights=(1, 1)) if wrapped else reference(values, label)
    expected.backward()
    torch.testing.assert_close(out.mean.double(), expected, rtol=1e-5, atol=1e-6)
    found = {name.rpartition(".")[2]: p.grad for name, p in objective.named_parameters()}
    assert_close(found, {name: w.grad for name, w in weights.items()})  # type: ignore[arg-type]


def test_gradient_of_the_projection() -> None:
    objective, rows = Objective(EmbedDistillLoss(distance_metric="l2", projection_dim=5), FACTS, seed=0), batch()
    targets = {"*": torch.randn(6, 5)}
    rows = RepBatch.from_values({role: rows.local(role) for role in PAIR}, targets=Targets(vectors=targets))
    objective(rows, CTX).mean.backward()
    weights = exact(objective)
    values = {role: rows.local(role).detach().double() for role in PAIR}
    further.embed_distill(values, {"*": targets["*"].double()}, distance_metric="l2", **weights).backward()
    found = {name.rpartition(".")[2]: p.grad for name, p in objective.named_parameters()}
    assert_close(found, {name: w.grad for name, w in weights.items()})  # type: ignore[arg-type]


def test_gradient_of_the_temperature() -> None:
    loss = MultipleNegativesRankingLoss(scale=4.0, learn_scale=True)
    objective, rows = Objective(loss, FACTS, seed=0), batch()
    out = objective(rows, CTX)
    out.mean.backward()
    values = {role: rows.local(role).detach().double() for role in PAIR}
    up, down = (naive.mnrl(values, scale=4.0 * 2.718281828459045**e) for e in (1e-6, -1e-6))
    (parameter,) = objective.parameters()
    assert parameter.grad is not None and abs(float(parameter.grad)) > 1e-2
    assert float(parameter.grad) == pytest.approx(float(up - down) / 2e-6, rel=1e-4)
    assert float(out.metrics["scale"]) == pytest.approx(4.0)


def test_the_scale_stays_within_its_bound() -> None:
    layer = LearnedScale(20.0)
    with torch.no_grad():
        layer.log_scale += 5
    assert float(layer().detach()) == 100.0
    with pytest.raises(ConfigError, match="at most 100 when it is learned; found 150"):
        MultipleNegativesRankingLoss(scale=150.0, learn_scale=True)
    assert MultipleNegativesRankingLoss(scale=150.0).scale == 150.0


def test_what_is_learned_is_saved_and_comes_back() -> None:
    objective, rows = Objective(CLASSIFIER, FACTS, seed=0), batch()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=0.1)
    before = float(objective(rows, CTX).mean.detach())
    for _ in range(5):
        optimizer.zero_grad()
        objective(rows, CTX).mean.backward()
        optimizer.step()
    after = objective(rows, CTX).mean
    assert float(after.detach()) < before - 0.1
    resumed = Objective(CLASSIFIER, FACTS, seed=9)
    resumed.load_state_dict(objective.state_dict())
    assert torch.equal(resumed(rows, CTX).mean, after)


@pytest.mark.parametrize(
    "loss", [CLASSIFIER, EmbedDistillLoss(projection_dim=3), MultipleNegativesRankingLoss(learn_scale=True)], ids=lambda x: type(x).__name__
)
def test_without_its_parameters_a_loss_says_how_to_make_them(loss: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{type(loss).__name__} has parameters of its own, .*Objective\(loss"):
        loss(batch(), CTX)


# --- the number of classes -----------------------------------------------------------------------------------------------------


def test_classes_are_counted_in_the_data() -> None:
    grades = torch.tensor([0, 2, 1, 2], dtype=torch.float64)
    assert SoftmaxLoss().fitted(grades) == SoftmaxLoss(num_labels=3)
    assert SoftmaxLoss(num_labels=5).fitted(grades) == SoftmaxLoss(num_labels=5)
    assert SoftmaxLoss().fitted(torch.zeros(3, dtype=torch.float64)) == SoftmaxLoss(num_labels=2)
    inside = MatryoshkaLoss(loss=SoftmaxLoss(), dims=(4,)).fitted(grades)
    assert inside == MatryoshkaLoss(loss=SoftmaxLoss(num_labels=3), dims=(4,))
    with pytest.raises(ConfigError, match="taken from the labels of the training data"):
        Objective(SoftmaxLoss(), FACTS, seed=0)


@pytest.mark.parametrize(
    ("labels", "found"), [([0, 1, 3], "from 0 to 3"), ([-100, 1, 2], "from -100 to 2"), ([0, 0.5, 1], "from 0 to 1")], ids=str
)
def test_labels_that_are_no_classes_are_refused(labels: list[float], found: str) -> None:
    with pytest.raises(DataError, match=f"classes 0 to 2 .*{found}"):
        CLASSIFIER.fitted(torch.tensor(labels, dtype=torch.float64))


def test_a_label_that_is_no_class_stops_the_step() -> None:
    """-100 is what torch leaves out silently."""
    for label in (3, -100):
        rows = batch()
        wrong = RepBatch.from_values({role: rows.local(role) for role in PAIR}, targets=Targets(label=torch.full((6,), label)))
        with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
            Objective(CLASSIFIER, FACTS, seed=0)(wrong, CTX)


def test_a_classifier_that_sees_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="the classifier would see nothing"):
        SoftmaxLoss(num_labels=3, concatenation_sent_rep=False, concatenation_sent_difference=False)


def test_accuracy_is_logged() -> None:
    objective, rows = Objective(CLASSIFIER, FACTS, seed=0), batch()
    with torch.no_grad():
        objective.learned["SoftmaxLoss"].weight.zero_()
        objective.learned["SoftmaxLoss"].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    assert float(objective(rows, CTX).metrics["accuracy"]) == pytest.approx(1 / 3)
