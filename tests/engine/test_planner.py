from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stpipe.engine.planner import RowSizes, padding_share, plan_micro_batches, plan_rows

lengths_lists = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@given(lengths_lists, st.integers(1, 100), st.sampled_from(["packed", "padded"]), st.integers(1, 8))
def test_every_text_once_and_within_budget(lengths: list[int], budget: int, layout: str, at_least: int) -> None:
    size = torch.tensor(lengths)
    parts = plan_micro_batches(size, budget=budget, layout=layout, at_least=at_least)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(lengths)))
    assert len(parts) >= min(at_least, len(lengths))
    for part in parts:
        cost = int(size[part].sum()) if layout == "packed" else part.numel() * int(size[part].max())
        assert cost <= budget or part.numel() == 1


@given(lengths_lists, st.integers(1, 100))
def test_longest_texts_come_first(lengths: list[int], budget: int) -> None:
    size = torch.tensor(lengths)
    order = torch.cat(plan_micro_batches(size, budget=budget, layout="packed"))
    assert size[order].tolist() == sorted(lengths, reverse=True)


def test_greedy_fill_of_packed_and_padded() -> None:
    size = torch.tensor([3, 5, 2, 2])
    assert [p.tolist() for p in plan_micro_batches(size, budget=8, layout="packed")] == [[1, 0], [2, 3]]
    assert [p.tolist() for p in plan_micro_batches(size, budget=8, layout="padded")] == [[1], [0, 2], [3]]


def test_padding_share_counts_rectangles() -> None:
    size = torch.tensor([4, 1])
    both = [torch.tensor([0, 1])]
    assert padding_share(size, both, "padded") == pytest.approx(3 / 8)
    assert padding_share(size, both, "packed") == 0.0


rows_of_roles = st.integers(1, 12).flatmap(
    lambda rows: st.lists(
        st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), min_size=rows, max_size=rows), min_size=1, max_size=3
    )
)


@given(rows_of_roles, st.integers(1, 150), st.sampled_from(["packed", "padded"]), st.integers(1, 8))
def test_every_row_once_and_parts_within_budget(roles: list[list[list[int]]], budget: int, layout: str, at_least: int) -> None:
    """roles: for each role and row the lengths of its texts."""
    sizes = [RowSizes.of(torch.tensor([n for row in role for n in row]), torch.tensor([len(row) for row in role])) for role in roles]
    parts = plan_rows(sizes, budget=budget, layout=layout, at_least=at_least)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(roles[0])))
    assert len(parts) >= min(at_least, len(roles[0]))
    for part in parts:
        assert part.tolist() == sorted(part.tolist())
        texts = [[n for row in part.tolist() for n in role[row]] for role in roles]
        cost = sum(map(sum, texts)) if layout == "packed" else sum(len(t) * max(t) for t in texts)
        assert cost <= budget or part.numel() == 1


def test_rows_of_single_texts_and_of_lists() -> None:
    single = RowSizes.of(torch.tensor([4, 2]), None)
    assert (single.texts.tolist(), single.tokens.tolist(), single.longest.tolist()) == ([1, 1], [4, 2], [4, 2])
    lists = RowSizes.of(torch.tensor([4, 2, 9]), torch.tensor([1, 2]))
    assert (lists.texts.tolist(), lists.tokens.tolist(), lists.longest.tolist()) == ([1, 2], [4, 11], [4, 9])
