"""Losses that miss their target say which, and edge cases of labels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stpipe.config.errors import DataError
from stpipe.core.batch import Targets
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.losses import (
    BatchAllTripletLoss,
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLoss,
    BatchSemiHardTripletLoss,
    CoSENTLoss,
    DistillKLDivLoss,
    Loss,
    MarginMSELoss,
    MSELoss,
    OnlineContrastiveLoss,
)
from tests.losses import naive

CTX = StepContext()
BATCH_TRIPLETS = (BatchHardTripletLoss(), BatchHardSoftMarginTripletLoss(), BatchSemiHardTripletLoss(), BatchAllTripletLoss())


def pair(targets: Targets, rows: int = 6) -> RepBatch:
    return RepBatch.from_values({"anchor": torch.randn(rows, 4), "positive": torch.randn(rows, 4)}, targets=targets)


def test_missing_scores() -> None:
    with pytest.raises(DataError, match="'cosent' needs a label"):
        CoSENTLoss()(pair(Targets()), CTX)


@pytest.mark.parametrize("loss", BATCH_TRIPLETS, ids=lambda x: type(x).__name__)
def test_missing_classes(loss: Loss) -> None:
    with pytest.raises(DataError, match="needs a class"):
        loss(RepBatch.from_values({"anchor": torch.randn(3, 4)}), CTX)


def test_missing_vectors_and_vectors_of_another_width() -> None:
    with pytest.raises(DataError, match="'positive', found: \\['anchor'\\]"):
        MSELoss()(pair(Targets(vectors={"anchor": torch.randn(6, 4)})), CTX)
    with pytest.raises(DataError, match="have 5 dimensions, the model has 4"):
        MSELoss()(pair(Targets(vectors={"*": torch.randn(6, 5)})), CTX)


@pytest.mark.parametrize("loss", BATCH_TRIPLETS, ids=lambda x: type(x).__name__)
def test_texts_without_a_triplet_do_not_count(loss: Loss) -> None:
    """Class 9 has one text: it is a negative of others, but no anchor. A batch of one class has no triplet at all."""
    x = torch.randn(6, 4)
    label = torch.tensor([1, 1, 2, 2, 2, 9])
    out = loss(RepBatch.from_values({"anchor": x}, targets=Targets(label=label)), CTX)
    reference = {
        BatchHardTripletLoss: naive.batch_hard,
        BatchSemiHardTripletLoss: naive.batch_semi_hard,
        BatchAllTripletLoss: naive.batch_all,
        BatchHardSoftMarginTripletLoss: lambda v, t: naive.batch_hard(v, t, soft=True),
    }[type(loss)]
    torch.testing.assert_close(out.mean.double(), reference({"anchor": x.double()}, label), rtol=1e-5, atol=1e-6)
    lone = loss(RepBatch.from_values({"anchor": x}, targets=Targets(label=torch.ones(6, dtype=torch.int64))), CTX)
    assert float(lone.sum) == float(lone.count) == 0


@pytest.mark.parametrize("label", [[1, 1, 1, 1], [0, 0, 0, 0], [2, 2, 2, 2], [1, 0, 2, 0]])
def test_online_contrastive_with_one_sort_of_pair(label: list[int]) -> None:
    torch.manual_seed(1)
    batch = pair(Targets(label=torch.tensor(label)), rows=4)
    values = {role: batch.local(role).double() for role in ("anchor", "positive")}
    expected = naive.online_contrastive(values, torch.tensor(label)) if set(label) != {2} else torch.zeros(())
    torch.testing.assert_close(OnlineContrastiveLoss()(batch, CTX).mean, expected.float(), rtol=1e-5, atol=1e-6)


def test_cosent_of_thousands_of_pairs_is_exact() -> None:
    """No n^2 logits are needed, and the suffixes of a long running sum lose nothing."""
    torch.manual_seed(0)
    n = 4096
    batch = pair(Targets(score=torch.rand(n)), rows=n)
    similarity = torch.cosine_similarity(batch.local("anchor").double(), batch.local("positive").double())
    y = batch.targets.score
    assert y is not None
    logits = torch.where(y[:, None] > y[None, :], 20 * (similarity[None, :] - similarity[:, None]), -torch.inf)
    expected = torch.logsumexp(torch.cat([torch.zeros(1, dtype=torch.float64), logits.flatten()]), 0)
    torch.testing.assert_close(CoSENTLoss()(batch, CTX).mean.double(), expected, rtol=1e-5, atol=0)


def test_batch_all_of_many_rows_is_exact() -> None:
    torch.manual_seed(0)
    x, label = torch.randn(160, 8), torch.arange(160) % 7
    out = BatchAllTripletLoss(margin=0.2)(RepBatch.from_values({"anchor": x}, targets=Targets(label=label)), CTX)
    d = torch.cdist(x.double(), x.double())
    same = label[:, None] == label[None, :]
    keep = (same & ~torch.eye(160, dtype=torch.bool))[:, :, None] & ~same[:, None, :]
    hinge = torch.where(keep, (d[:, :, None] - d[:, None, :] + 0.2).clamp(min=0), 0)
    assert float(out.count) == float((hinge > 0).sum())
    torch.testing.assert_close(out.mean.double(), hinge.sum() / (hinge > 0).sum(), rtol=1e-5, atol=0)


def triplet(targets: Targets, negatives: int = 1) -> RepBatch:
    roles = ("anchor", "positive", *(f"negative_{k + 1}" for k in range(negatives)))
    return RepBatch.from_values({r: torch.randn(4, 3) for r in roles}, targets=targets)


def test_margins_and_scores_are_told_apart_by_their_number() -> None:
    scores = torch.randn(4, 3)
    batch = triplet(Targets(scores=scores), negatives=2)
    margins = replace(batch, targets=Targets(scores=scores[:, :1] - scores[:, 1:]))
    torch.testing.assert_close(MarginMSELoss()(batch, CTX).mean, MarginMSELoss()(margins, CTX).mean)
    swapped = replace(batch, targets=Targets(scores=scores.flip(1)))
    assert abs(float(MarginMSELoss()(swapped, CTX).mean - MarginMSELoss()(batch, CTX).mean)) > 1e-3, "margins have a sign"


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (Targets(), "needs 2 margin\\(s\\) of a teacher, or 3 scores .* no label"),
        (Targets(score=torch.zeros(4)), "with 2 negative\\(s\\); found 1"),
        (Targets(scores=torch.zeros(4, 4)), "found 4"),
    ],
)
def test_margins_of_another_number(targets: Targets, message: str) -> None:
    with pytest.raises(DataError, match=message):
        MarginMSELoss()(triplet(targets, negatives=2), CTX)


@pytest.mark.parametrize(
    ("targets", "negatives", "message"),
    [
        (Targets(), 1, "here 2 in that order; found none"),
        (Targets(scores=torch.zeros(4, 1)), 1, "found 1"),
        (Targets(scores=torch.zeros(4, 1)), 0, "at least one negative"),
    ],
)
def test_scores_of_another_number(targets: Targets, negatives: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        DistillKLDivLoss()(triplet(targets, negatives), CTX)


def test_a_teacher_that_is_too_sure_is_seen_in_the_log() -> None:
    batch = triplet(Targets(scores=torch.tensor([[50.0, -50.0]] * 4)))
    assert float(DistillKLDivLoss()(batch, CTX).metrics["teacher_confidence"]) == pytest.approx(1.0)
    assert float(DistillKLDivLoss(teacher_temperature=1000.0)(batch, CTX).metrics["teacher_confidence"]) < 0.6


def test_a_student_that_agrees_with_its_teacher_has_no_loss() -> None:
    x = triplet(Targets(), negatives=2)
    scores = torch.stack([(x.local("anchor") * x.local(r)).sum(1) for r in ("positive", "negative_1", "negative_2")], 1)
    for loss in (MarginMSELoss(), DistillKLDivLoss(temperature=3.0)):
        assert abs(float(loss(replace(x, targets=Targets(scores=scores + 7.0)), CTX).mean)) < 1e-6
        assert float(loss(replace(x, targets=Targets(scores=-scores)), CTX).mean) > 1e-3
