from __future__ import annotations

import pytest
import torch

from stpipe.config.errors import ConfigError, DataError
from stpipe.core.batch import Targets
from stpipe.core.scores import ScoreBatch


def test_flat_logits_are_padded_once_and_keep_their_gradient() -> None:
    logits = torch.arange(1.0, 7.0).unsqueeze(1).requires_grad_()
    batch = ScoreBatch.from_flat(logits, torch.tensor([3, 1, 2]), row=torch.tensor([7, 8, 9]))
    assert batch.score.tolist() == [[1, 2, 3], [4, 0, 0], [5, 6, 0]]
    assert batch.mask.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    (batch.score * torch.tensor([[1.0, 2, 3], [4, 50, 60], [7, 8, 90]])).sum().backward()
    assert logits.grad is not None
    assert logits.grad[:, 0].tolist() == [1, 2, 3, 4, 7, 8]
    assert len(batch) == 3
    some = batch.rows(torch.tensor([2, 0]))
    assert some.score.tolist() == [[5, 6, 0], [1, 2, 3]]
    assert some.row is not None
    assert some.row.tolist() == [9, 7]


def test_classes_have_one_logit_each() -> None:
    batch = ScoreBatch.from_flat(torch.arange(6.0).view(2, 3), torch.tensor([1, 1]))
    assert batch.logits.shape == (2, 1, 3)
    with pytest.raises(ConfigError, match="the model has 3 outputs"):
        _ = batch.score


def test_grades_come_from_what_the_data_holds() -> None:
    score = torch.zeros(2, 3)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    listed = ScoreBatch.from_scores(score, mask=mask, targets=Targets(scores=torch.tensor([[3.0, 0, 1], [0, 2, torch.nan]])))
    assert torch.equal(listed.grades(loss="x").nan_to_num(-1), torch.tensor([[3.0, 0, 1], [0, 2, -1]]))
    implied = ScoreBatch.from_scores(score, mask=mask).grades(loss="x")
    assert torch.equal(implied.nan_to_num(-1), torch.tensor([[1.0, 0, 0], [1, 0, -1]]))
    single = ScoreBatch.from_scores(score[:, :1], targets=Targets(label=torch.tensor([1, 0])))
    assert single.grades(loss="x").tolist() == [[1.0], [0.0]]
    with pytest.raises(DataError, match="found 2 a row for 3 candidates"):
        ScoreBatch.from_scores(score, targets=Targets(scores=torch.zeros(2, 2))).grades(loss="x")
