from __future__ import annotations

import torch

from stpipe.ops import masks


def test_masks_follow_ids_not_places() -> None:
    row, pool_row = torch.tensor([7, 3]), torch.tensor([3, 7, 9, 3, 7, 9])
    is_positive = torch.tensor([True, True, True, False, False, False])
    own = masks.own_row(row, pool_row)
    assert own.tolist() == [[False, True, False, False, True, False], [True, False, False, True, False, False]]
    positive = masks.positive(row, pool_row, is_positive)
    assert positive.tolist() == [[False, True, False, False, False, False], [True, False, False, False, False, False]]
    assert masks.place(positive).tolist() == [1, 0]


def test_the_first_of_equal_rows_is_the_place() -> None:
    assert masks.place(torch.tensor([[False, True, True], [True, False, True]])).tolist() == [1, 0]


def test_pairs_of_a_class_leave_out_the_text_itself() -> None:
    assert masks.same_class_pairs(torch.tensor([4, 5, 4])).tolist() == [[False, False, True], [False, False, False], [True, False, False]]


def test_one_place_undoes_place() -> None:
    place = torch.tensor([2, 0])
    assert masks.one_place(place, 3).tolist() == [[False, False, True], [True, False, False]]
    assert torch.equal(masks.place(masks.one_place(place, 3)), place)


def test_the_first_of_each_id_in_the_order_of_the_rows() -> None:
    assert masks.first_of_each(torch.tensor([9, 4, 7, 4, 1, 9, 9])).tolist() == [True, True, True, False, True, False, False]
    assert masks.first_of_each(torch.tensor([3])).tolist() == [True]
