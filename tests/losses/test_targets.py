"""Losses that miss their target say which, and edge cases of labels."""

from __future__ import annotations

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
    Loss,
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
