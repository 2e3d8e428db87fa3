"""MultipleNegativesRankingLoss beyond the suite: duplicates, gathered pools, options that contradict each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stpipe.config.errors import ConfigError
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.losses import MultipleNegativesRankingLoss
from tests.losses import naive

CTX = StepContext()
ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")


@st.composite
def batches(draw: st.DrawFn) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Rows whose texts come from a small set, documents of all roles from the same one, so that they repeat in every way."""
    rows, negatives = draw(st.integers(1, 6)), draw(st.integers(0, 2))
    roles = ("anchor", "positive", *(f"negative_{k + 1}" for k in range(negatives)))
    texts = st.lists(st.integers(0, 4), min_size=rows, max_size=rows)
    ids = {role: [i + (100 if role == "anchor" else 0) for i in draw(texts)] for role in roles}
    g = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    table = {i: torch.randn(5, generator=g, dtype=torch.float64) for i in range(200)}
    return {role: torch.stack([table[i] for i in ids[role]]).requires_grad_() for role in roles}, ids


def rep_batch(values: dict[str, Tensor], ids: dict[str, list[int]]) -> RepBatch:
    return RepBatch.from_values(values, text_id={role: torch.tensor(i) for role, i in ids.items()})


OPTIONS: list[dict[str, Any]] = [
    {},
    {"directions": ALL},
    {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
    {"hardness_mode": "all_negatives", "hardness_strength": 5.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@settings(max_examples=60, deadline=None, database=None)
@given(drawn=batches())
def test_duplicates_are_masked_as_a_loop_over_texts_would(
    options: dict[str, Any], drawn: tuple[dict[str, Tensor], dict[str, list[int]]]
) -> None:
    values, ids = drawn
    out = MultipleNegativesRankingLoss(**options)(rep_batch(values, ids), CTX).mean
    expected = naive.mnrl(values, ids=ids, **options)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    found = torch.autograd.grad(out, list(values.values()))
    wanted = torch.autograd.grad(expected, list(values.values()), allow_unused=True)
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x, torch.zeros_like(x) if y is None else y, rtol=1e-8, atol=1e-8)


@settings(max_examples=30, deadline=None, database=None)
@given(drawn=batches())
def test_without_masking_identity_does_not_matter(drawn: tuple[dict[str, Tensor], dict[str, list[int]]]) -> None:
    values, ids = drawn
    out = MultipleNegativesRankingLoss(mask_duplicates=False)(rep_batch(values, ids), CTX).mean
    torch.testing.assert_close(out, naive.mnrl(values), rtol=1e-9, atol=1e-9)


def test_masking_changes_the_loss_of_duplicates() -> None:
    torch.manual_seed(0)
    values = {"anchor": torch.randn(4, 5), "positive": torch.randn(4, 5)}
    batch = rep_batch(values, {"anchor": [0, 1, 2, 3], "positive": [10, 11, 10, 12]})
    masked = MultipleNegativesRankingLoss()(batch, CTX).mean
    plain = MultipleNegativesRankingLoss(mask_duplicates=False)(batch, CTX).mean
    assert float(plain - masked) > 1e-3


def test_a_hard_negative_with_the_text_of_the_positive_is_no_negative() -> None:
    torch.manual_seed(0)
    anchor, positive = torch.randn(3, 5), torch.randn(3, 5)
    values = {"anchor": anchor, "positive": positive, "negative_1": positive}
    ids = {"anchor": [0, 1, 2], "positive": [10, 11, 12], "negative_1": [10, 11, 12]}
    with_copies = MultipleNegativesRankingLoss()(rep_batch(values, ids), CTX).mean
    expected = naive.mnrl({r: v.double() for r, v in values.items()}, ids=ids).float()
    torch.testing.assert_close(with_copies, expected)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_processes_with_unequal_rows_and_shared_texts_equal_one_process(options: dict[str, Any]) -> None:
    torch.manual_seed(3)
    roles = ("anchor", "positive", "negative_1")
    values = {role: torch.randn(9, 5, dtype=torch.float64, requires_grad=True) for role in roles}
    ids = {
        "anchor": [0, 1, 2, 3, 4, 5, 6, 1, 8],
        "positive": [20, 21, 22, 20, 24, 25, 26, 27, 28],
        "negative_1": [30, 31, 20, *range(33, 39)],
    }
    row = torch.tensor([41, 7, 1000, 3, 2, 999, 12, 13, 5])
    whole = replace(rep_batch(values, ids), row=row, row_all=row)
    loss = MultipleNegativesRankingLoss(**options)
    parts = [loss(whole.anchors(s), CTX) for s in (slice(0, 2), slice(2, 7), slice(7, 9))]
    together = sum(p.sum for p in parts) / sum(p.count for p in parts)
    single = naive.mnrl(values, ids=ids, **options)
    torch.testing.assert_close(together, single, rtol=1e-9, atol=1e-9)
    for x, y in zip(torch.autograd.grad(together, list(values.values())), torch.autograd.grad(single, list(values.values())), strict=True):
        assert y.abs().max() > 1e-4
        torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_row_that_two_processes_hold_is_one_row(options: dict[str, Any]) -> None:
    """Samplers pad the last batch with rows from its beginning; the copy is not a negative of the row."""
    torch.manual_seed(0)
    a, p = torch.randn(3, 5), torch.randn(3, 5)
    index = torch.tensor([0, 1, 2, 0])
    batch = RepBatch.from_values({"anchor": a[index], "positive": p[index]}, text_id={"anchor": index, "positive": index + 10})
    padded = replace(batch, row=index, row_all=index)
    alone = RepBatch.from_values({"anchor": a, "positive": p})
    loss, first = MultipleNegativesRankingLoss(**options), slice(0, 1)
    torch.testing.assert_close(loss(padded.anchors(first), CTX).mean, loss(alone.anchors(first), CTX).mean)


def test_query_to_doc_is_required() -> None:
    with pytest.raises(ConfigError, match="query_to_doc"):
        MultipleNegativesRankingLoss(directions=("doc_to_query",))


def test_a_softmax_without_the_positive_is_refused() -> None:
    with pytest.raises(ConfigError, match="doc_to_doc"):
        MultipleNegativesRankingLoss(directions=("query_to_doc", "doc_to_doc"), partition_mode="per_direction")
