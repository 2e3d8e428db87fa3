"""Orders, ranks, gains and weights of lists against loops and values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from stpipe.ops import lists

SCORE = torch.tensor([[0.5, 2.0, 0.5, -1.0], [1.0, 3.0, 0.0, 0.0]])
GRADES = torch.tensor([[1.0, 0.0, 0.0, 2.0], [2.0, 2.0, math.nan, math.nan]])
MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])


def test_best_first_puts_the_lesser_grade_first_among_equals() -> None:
    assert lists.best_first(SCORE, GRADES, MASK).tolist() == [[1, 2, 0, 3], [1, 0, 2, 3]]


def test_equal_in_everything_keeps_the_order_of_the_data() -> None:
    many = torch.zeros(1, 200)
    everything = torch.ones(1, 200, dtype=torch.bool)
    assert torch.equal(lists.best_first(many, many, everything)[0], torch.arange(200))
    assert torch.equal(lists.grades_first(many, everything)[0], torch.arange(200))


def test_padding_comes_last_whatever_it_holds() -> None:
    score, grades = SCORE.clone(), GRADES.nan_to_num(99.0)
    score[1, 2:] = 50.0
    assert lists.best_first(score, grades, MASK)[1].tolist() == [1, 0, 2, 3]
    assert lists.grades_first(grades, MASK)[1].tolist() == [0, 1, 2, 3]
    assert lists.grades_first(GRADES, MASK)[0].tolist() == [3, 0, 1, 2]


def test_differences_and_pairs() -> None:
    found = lists.differences(SCORE)
    both = lists.pairs(MASK)
    assert found[0, 1, 3] == 3.0
    assert found[0, 3, 1] == -3.0
    assert both[0].all()
    assert both[1].sum() == 4


def test_discounts() -> None:
    assert lists.discounts(4, SCORE).tolist() == pytest.approx([math.log2(1 + r) for r in (1, 2, 3, 4)])


@pytest.mark.parametrize("k", [None, 1, 2, 9])
def test_gains(k: int | None) -> None:
    found = lists.gains(GRADES, MASK, k=k)
    for row, grades in enumerate(([1.0, 0.0, 0.0, 2.0], [2.0, 2.0])):
        raw = [2**y - 1 for y in grades]
        best = sum(g / math.log2(1 + r) for r, g in enumerate(sorted(raw, reverse=True)[:k], 1))
        assert found[row].tolist() == pytest.approx([g / best for g in raw] + [0.0] * (4 - len(raw)))


def test_gains_of_rows_without_relevance_and_of_large_grades() -> None:
    everything = torch.ones(1, 3, dtype=torch.bool)
    assert lists.gains(torch.tensor([[0.0, -2.0, 0.0]]), everything).tolist() == [[0, 0, 0]]
    large = lists.gains(torch.tensor([[1000.0, 999.0, 0.0]]), everything)
    best = 1 + 0.5 / math.log2(3)
    assert large[0].tolist() == pytest.approx([1 / best, 0.5 / best, 0.0])


def test_mean_ranks() -> None:
    found = lists.mean_ranks(GRADES, MASK)
    assert found[0].tolist() == [2.0, 3.5, 3.5, 1.0]
    assert found[1, :2].tolist() == [1.5, 1.5]


def test_soft_ranks_near_the_ranks_when_sharp() -> None:
    score = torch.tensor([[3.0, 1.0, 2.0, 9.0]])
    mask = torch.tensor([[True, True, True, False]])
    assert lists.soft_ranks(score, mask, alpha=50.0)[0, :3].tolist() == pytest.approx([1, 3, 2], abs=1e-5)
    smooth = lists.soft_ranks(score, mask)[0]
    assert float(smooth[0]) == pytest.approx(1 + 1 / (1 + math.exp(2)) + 1 / (1 + math.exp(1)), rel=1e-6)


def test_log_picks() -> None:
    found = lists.log_picks(SCORE, MASK)
    for row, count in ((0, 4), (1, 2)):
        s = SCORE[row, :count].double()
        expected = [float(s[i] - s[i:].exp().sum().log()) for i in range(count)]
        assert found[row].tolist() == pytest.approx(expected + [0.0] * (4 - count), abs=1e-6)


def test_rank_weights_are_shares() -> None:
    halving = lists.halving_weights(MASK, SCORE)
    assert halving[0].tolist() == pytest.approx([7 / 11, 3 / 11, 1 / 11, 0])
    assert halving[1].tolist() == [1, 0, 0, 0]
    logarithmic = lists.logarithmic_weights(MASK, SCORE)
    parts = [1 / math.log(1 + r) for r in (1, 2, 3, 4)]
    assert logarithmic[0].tolist() == pytest.approx([p / sum(parts) for p in parts])
    assert logarithmic[1].tolist() == pytest.approx([*(p / sum(parts[:2]) for p in parts[:2]), 0, 0])


def test_rank_weights_of_one_document_and_of_very_many() -> None:
    one = torch.tensor([[True, False]])
    assert lists.halving_weights(one, SCORE).tolist() == [[0, 0]]
    many = lists.halving_weights(torch.ones(1, 5000, dtype=torch.bool), SCORE)
    assert torch.isfinite(many).all()
    assert float(many.sum()) == pytest.approx(1.0)
    assert float(many[0, 0]) == pytest.approx(0.5)
