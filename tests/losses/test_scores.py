"""What holds for every loss of cross-encoders: value and gradients, padding, splits, ties, lists without anything to learn."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from stpipe import losses as L
from stpipe.config.build import build_component
from stpipe.config.registry import LOSSES
from stpipe.core.batch import Targets
from stpipe.core.scores import ScoreBatch
from tests.losses import naive_scores as naive
from tests.losses.score_cases import (
    CASES,
    CHUNKS,
    CTX,
    SINGLE,
    Case,
    all_cases,
    assert_same_gradient,
    gradient,
    lambda_cases,
    list_cases,
    total,
)
from tests.losses.test_suite import NoHostSync

# --- every loss ----------------------------------------------------------------------------------------------------------------------


@all_cases
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_value_and_gradients_are_those_of_a_float64_loop(case: Case, seed: int) -> None:
    logits = case.logits(seed=seed)
    out = case.loss(case.batch(logits, seed=seed), CTX)
    expected, grads = case.expected(logits, seed=seed)
    assert out.sum.shape == out.count.shape == ()
    assert out.sum.dtype == out.count.dtype == torch.float32
    assert float(expected) > 1e-2
    torch.testing.assert_close(out.mean.double(), expected, rtol=1e-5, atol=1e-6)
    assert_same_gradient(gradient(out.mean, logits), grads)


@all_cases
def test_gradients_agree_with_finite_differences(case: Case) -> None:
    logits = case.logits(seed=5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: case.loss(case.batch(x), CTX).mean, (logits,), atol=1e-6)


@all_cases
def test_rows_add_up_in_any_split(case: Case) -> None:
    assert case.loss.effective_coupling() == "row"
    logits = case.logits()
    batch = case.batch(logits)
    whole = case.loss(batch, CTX)
    parts = [case.loss(batch.rows(chunk), CTX) for chunk in CHUNKS]
    torch.testing.assert_close(total(parts), whole.mean, rtol=1e-5, atol=1e-6)
    assert_same_gradient(gradient(total(parts), logits), gradient(whole.mean, logits))


@pytest.mark.parametrize("case", [c for c in CASES if c.labels != "margins" and c.counts != SINGLE], ids=lambda c: c.id)
def test_wider_padding_changes_nothing(case: Case) -> None:
    """The same rows in a batch with a longer list, whatever the padding holds (the number of margins tells the number of negatives)."""
    logits = case.logits()
    batch = case.batch(logits)
    rows = len(batch)
    more = torch.full((rows, 3, 1), 7.0)
    given = batch.targets.scores
    targets = batch.targets if given is None else Targets(scores=torch.cat([given, torch.full((rows, 3), math.nan)], 1))
    wide = ScoreBatch(torch.cat([batch.logits, more], 1), torch.cat([batch.mask, torch.zeros(rows, 3, dtype=torch.bool)], 1), targets)
    a, b = case.loss(batch, CTX), case.loss(wide, CTX)
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-6, atol=1e-7)
    assert float(a.count) == float(b.count) > 0
    assert_same_gradient(gradient(b.mean, logits), gradient(a.mean, logits), 1e-6)


@all_cases
def test_half_precision_is_scored_in_fp32(case: Case) -> None:
    half = case.logits(dtype=torch.bfloat16)
    full = half.detach().float().requires_grad_()
    expected = case.loss(case.batch(full), CTX)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = case.loss(case.batch(half), CTX)
    assert out.sum.dtype == torch.float32
    torch.testing.assert_close(out.mean, expected.mean, rtol=1e-6, atol=1e-7)
    assert_same_gradient(gradient(out.mean, half), gradient(expected.mean, full), 1e-2)  # gradients are stored in bf16


@all_cases
def test_extreme_scores_stay_finite(case: Case) -> None:
    """Wrong by hundreds: losses that go through a probability would give inf or no gradient."""
    logits = torch.linspace(-400, 400, sum(case.counts)).roll(3)[:, None].requires_grad_()
    out = case.loss(case.batch(logits), CTX)
    assert torch.isfinite(out.mean)
    assert torch.isfinite(gradient(out.mean, logits)).all()


@all_cases
def test_equal_scores_everywhere(case: Case) -> None:
    """A new head that gives every pair one score still learns; ties are ranked as the loop ranks them."""
    logits = torch.full((sum(case.counts), 1), 0.3).requires_grad_()
    out = case.loss(case.batch(logits), CTX)
    expected, grads = case.expected(logits)
    torch.testing.assert_close(out.mean.double(), expected, rtol=1e-5, atol=1e-6)
    assert_same_gradient(gradient(out.mean, logits), grads)


@all_cases
def test_inputs_and_loss_are_left_alone(case: Case) -> None:
    logits = case.logits()
    batch = case.batch(logits)
    before = (batch.logits.detach().clone(), None if batch.targets.scores is None else batch.targets.scores.clone())
    first, second = case.loss(batch, CTX), case.loss(batch, CTX)
    assert torch.equal(first.sum, second.sum)
    assert torch.equal(before[0], batch.logits)
    assert before[1] is None or torch.equal(before[1].nan_to_num(), batch.targets.scores.nan_to_num())
    with pytest.raises(dataclasses.FrozenInstanceError):
        case.loss.anything = 1  # type: ignore[attr-defined]


@all_cases
def test_forward_and_backward_never_wait_for_the_device(case: Case) -> None:
    batch = case.batch(case.logits())
    score = batch.logits.detach().requires_grad_()
    with NoHostSync():
        out = case.loss(ScoreBatch(score, batch.mask, batch.targets), CTX)
        torch.autograd.grad(out.mean, score)


# --- lists with little to learn from ---------------------------------------------------------------------------------------------------

LIST_CASES = [*lambda_cases(), *list_cases()]
listwise = pytest.mark.parametrize("case", LIST_CASES, ids=lambda c: c.id)
labelled = pytest.mark.parametrize("case", [c for c in LIST_CASES if c.labels is not None], ids=lambda c: c.id)


@listwise
def test_a_list_of_one_document_teaches_nothing(case: Case) -> None:
    alone = dataclasses.replace(case, counts=SINGLE)
    logits = alone.logits()
    out = alone.loss(alone.batch(logits), CTX)
    expected, _ = alone.expected(logits)
    torch.testing.assert_close(out.mean.double(), expected, rtol=1e-5, atol=1e-6)
    assert float(gradient(out.mean, logits).abs().max()) == 0
    assert "ndcg1" in case.id or float(out.mean.detach()) == 0


@labelled
@pytest.mark.parametrize("grade", [0.0, 2.0])
def test_equal_labels(case: Case, grade: float) -> None:
    """No pair is ordered: nothing to learn for losses on pairs. The others ask for equal scores, or for the order of the data."""
    logits = case.logits()
    grades = [[grade] * count for count in case.counts]
    out = case.loss(case.batch(logits, grades=grades), CTX)
    expected, grads = case.expected(logits, grades=grades)
    torch.testing.assert_close(out.mean.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(out.mean, logits).double(), grads, rtol=1e-5, atol=1e-6)
    if case.id.startswith(("lambda", "ranknet")) and "ndcg1" not in case.id:
        assert float(out.count) == 0
        assert float(out.mean.detach()) == float(gradient(out.mean, logits).abs().max()) == 0


@pytest.mark.parametrize("loss", [L.ListNetLoss(), L.ADRMSELoss(), L.LambdaLoss(), L.RankNetLoss()], ids=lambda c: type(c).__name__)
def test_order_of_the_documents_does_not_matter(loss: L.Loss) -> None:
    """Also with ties in scores and labels."""
    score = torch.tensor([[0.5, 0.5, -1.0, 0.5, 2.0, -1.0]], requires_grad=True)
    grades = torch.tensor([[1.0, 0.0, 2.0, 1.0, 0.0, 0.0]])
    base = loss(ScoreBatch.from_scores(score, targets=Targets(scores=grades)), CTX).mean
    assert float(base.detach()) > 0.1
    for seed in range(5):
        order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
        moved = score.detach()[:, order].requires_grad_()
        out = loss(ScoreBatch.from_scores(moved, targets=Targets(scores=grades[:, order])), CTX).mean
        torch.testing.assert_close(out, base, rtol=1e-5, atol=1e-6)


def test_a_tie_counts_as_the_wrong_order() -> None:
    """Of equal scores the irrelevant document has the better rank: the pair weighs as if the model had it wrong."""
    score, grades = torch.tensor([[0.7, 0.7, 0.1]]), torch.tensor([[1.0, 0.0, 0.0]])
    loss = L.LambdaLoss(weighting="ndcg1", k=1)
    tied = loss(ScoreBatch.from_scores(score, targets=Targets(scores=grades)), CTX)
    rank, sigmoid = 2, [0.5, 1 / (1 + math.exp(-0.6))]
    # Pairs with a document at rank 1: the relevant one against the first, and what has no gain. maxDCG@1 = 1.
    expected = -math.log2(sigmoid[0]) / math.log2(1 + rank)
    assert float(tied.sum) == pytest.approx(expected, rel=1e-5)


def test_negative_labels_gain_nothing_but_are_ordered() -> None:
    score, grades = torch.tensor([[0.2, 0.9, -0.3]]), torch.tensor([[-1.0, -5.0, 3.0]])
    targets = Targets(scores=grades)
    case = Case("x", L.LambdaLoss(), naive.lambda_loss, counts=(3,))
    expected, _ = case.expected(score.T, grades=grades.tolist())
    out = L.LambdaLoss()(ScoreBatch.from_scores(score, targets=targets), CTX)
    assert float(expected) > 0.1
    torch.testing.assert_close(out.mean.double(), expected, rtol=1e-5, atol=1e-6)
    assert float(out.count) == 3


def test_large_labels_stay_finite() -> None:
    """2^200 has no place in fp32."""
    score = torch.tensor([[0.2, 0.9, -0.3]], requires_grad=True)
    large = L.LambdaLoss()(ScoreBatch.from_scores(score, targets=Targets(scores=torch.tensor([[200.0, 199.0, 0.0]]))), CTX).mean
    same = L.LambdaLoss()(ScoreBatch.from_scores(score, targets=Targets(scores=torch.tensor([[60.0, 59.0, 0.0]]))), CTX).mean
    torch.testing.assert_close(large, same, rtol=1e-5, atol=1e-6)


def test_long_lists_keep_finite_weights() -> None:
    count = 300
    score = torch.randn(1, count, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = L.PListMLELoss()(ScoreBatch.from_scores(score), CTX).mean
    weight = [2.0 ** (-r) for r in range(1, 60)]
    z = score.detach().double()[0]
    expected = -sum(w * (z[r] - z[r:].logsumexp(0)) for r, w in enumerate(weight))
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(gradient(out, score)).all()


def test_lists_that_contradict_their_labels_are_counted() -> None:
    grades = torch.tensor([[2.0, 1.0, 1.0], [0.0, 1.0, math.nan], [1.0, 0.0, math.nan], [1.0, 0.0, 3.0]])
    batch = ScoreBatch.from_scores(torch.zeros(4, 3), mask=~grades.isnan(), targets=Targets(scores=grades))
    assert float(L.ListMLELoss()(batch, CTX).metrics["unordered_lists"]) == 0.5
    assert float(L.PListMLELoss()(batch, CTX).metrics["unordered_lists"]) == 0.5
    assert not L.ListMLELoss(respect_input_order=False)(batch, CTX).metrics


# --- surface -----------------------------------------------------------------------------------------------------------------------------

ALIASES = {
    "BinaryCrossEntropyLoss": "binary_cross_entropy",
    "bce": "binary_cross_entropy",
    "CrossEntropyLoss": "cross_entropy",
    "LambdaLoss": "lambda",
    "RankNetLoss": "ranknet",
    "ListNetLoss": "listnet",
    "ListMLELoss": "listmle",
    "PListMLELoss": "plistmle",
    "ADRMSELoss": "adr_mse",
}


def test_every_loss_of_cross_encoders_has_cases() -> None:
    registered = {name for name in LOSSES if LOSSES.get(name).kinds == ("cross_encoder",)}  # type: ignore[attr-defined]
    registered = {name for name in registered if LOSSES.get(name).__module__.startswith("stpipe.")}
    assert registered == {LOSSES.name_of(type(case.loss)) for case in CASES} | {"cross_entropy"}
    assert {alias: name for alias, name in LOSSES.aliases().items() if name in registered} == ALIASES


@all_cases
def test_facts(case: Case) -> None:
    cls = type(case.loss)
    assert cls.coupling == "row"
    assert cls.citation.startswith("@")
    assert cls.formats
    fields = {f.name: getattr(case.loss, f.name) for f in dataclasses.fields(cls)}
    assert build_component("loss", {"name": LOSSES.name_of(cls), **fields}) == case.loss
