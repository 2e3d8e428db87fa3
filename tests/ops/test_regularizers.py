"""Regularisers against loops in float64, over parts, thresholds, half precision and nothing at all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stpipe.ops.regularizers import REGULARIZERS, active, mean_active
from tests.losses import naive

NAIVE = {"flops": naive.flops, "l1": naive.l1}


def rows(sizes: list[int], width: int, *, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, width, generator=g, dtype=torch.float64).relu().requires_grad_() for n in sizes]


@pytest.mark.parametrize("name", REGULARIZERS)
@settings(max_examples=40, deadline=None, database=None)
@given(
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=3).filter(lambda s: sum(s) > 0),
    width=st.integers(1, 7),
    threshold=st.none() | st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_value_and_gradient_over_parts_are_those_of_a_loop_over_all_rows(
    name: str, sizes: list[int], width: int, threshold: int | None, seed: int
) -> None:
    parts = rows(sizes, width, seed=seed)
    found = REGULARIZERS[name](parts, threshold=threshold)
    expected = NAIVE[name]([row for part in parts for row in part], threshold=threshold)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected, parts, allow_unused=True) if expected.requires_grad else [None] * len(parts)
    for part, x, y in zip(parts, torch.autograd.grad(found, parts), wanted, strict=True):
        torch.testing.assert_close(x, torch.zeros_like(part) if y is None else y)


def test_values_are_not_trivial() -> None:
    parts = [p.detach() for p in rows([5, 3], 6)]
    assert float(REGULARIZERS["flops"](parts)) > 0.1
    assert float(REGULARIZERS["l1"](parts)) > 0.1
    full, cut = (float(REGULARIZERS["flops"](parts, threshold=t)) for t in (None, 3))
    assert 0 < cut < full, "the threshold leaves some rows out and keeps some"


def test_active_terms() -> None:
    a = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    b = torch.tensor([[0.5, 0.5, 0.5]])
    assert active(a).tolist() == [2, 0]
    assert float(mean_active([a, b])) == pytest.approx(5 / 3)
    assert not mean_active([a.requires_grad_()]).requires_grad


@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize("threshold", [None, 1])
def test_no_rows_and_rows_of_zeros_are_zero_with_a_finite_gradient(name: str, threshold: int | None) -> None:
    for shape in ((0, 4), (3, 4)):
        x = torch.zeros(shape, requires_grad=True)
        value = REGULARIZERS[name]([x], threshold=threshold)
        (grad,) = torch.autograd.grad(value, x)
        assert float(value.detach()) == 0
        assert torch.isfinite(grad).all()
    assert float(mean_active([torch.zeros(0, 4)])) == 0


@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize("threshold", [None, 3])
def test_half_precision_is_summed_in_fp32(name: str, threshold: int | None) -> None:
    part = rows([512], 8)[0].detach().to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = REGULARIZERS[name]([part], threshold=threshold)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), REGULARIZERS[name]([part.double()], threshold=threshold), rtol=1e-6, atol=0)


def test_the_mean_over_uneven_parts_is_over_rows_not_over_parts() -> None:
    parts = [p.detach() for p in rows([1, 7], 5)]
    torch.testing.assert_close(REGULARIZERS["flops"](parts), REGULARIZERS["flops"]([torch.cat(parts)]))
    apart = (REGULARIZERS["flops"](parts[:1]) + REGULARIZERS["flops"](parts[1:])) / 2
    assert abs(float(apart - REGULARIZERS["flops"](parts))) > 0.1
