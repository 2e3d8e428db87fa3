from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stpipe.engine.planner import padding_share, plan_micro_batches

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
