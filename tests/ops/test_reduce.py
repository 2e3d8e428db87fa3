from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.ops import reduce


def test_masked_extremes_and_means() -> None:
    x = torch.tensor([[1.0, 5.0, 3.0], [2.0, 2.0, 9.0]], requires_grad=True)
    keep = torch.tensor([[True, False, True], [False, False, False]])
    assert reduce.masked_max(x, keep, 1).tolist() == [3.0, -torch.inf]
    assert reduce.masked_min(x, keep, 1).tolist() == [1.0, torch.inf]
    assert float(reduce.masked_max(x.detach(), keep)) == 3
    assert float(reduce.masked_min(x.detach(), keep)) == 1
    assert float(reduce.masked_mean(x.detach(), keep)) == 2
    assert float(reduce.masked_mean(x.detach(), torch.zeros_like(keep))) == 0


def test_what_is_masked_may_be_infinite() -> None:
    x = torch.tensor([1.0, torch.inf, torch.nan], requires_grad=True)
    total = reduce.masked_sum(x, torch.tensor([True, False, False]))
    total.backward()
    assert float(total.detach()) == 1
    assert x.grad is not None
    assert x.grad.tolist() == [1, 0, 0]


def test_equal_extremes_share_the_gradient() -> None:
    x = torch.tensor([2.0, 2.0, 1.0], requires_grad=True)
    reduce.masked_max(x, torch.ones(3, dtype=torch.bool)).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.5, 0.5, 0]


def test_log_one_plus_sum_exp_does_not_overflow() -> None:
    x = torch.tensor([1000.0, 999.0])
    torch.testing.assert_close(reduce.log_one_plus_sum_exp(x), torch.tensor(1000 + torch.log(1 + torch.tensor(-1.0).exp()).item()))
    assert float(reduce.log_one_plus_sum_exp(torch.tensor([-torch.inf]))) == 0
    assert float(reduce.log_one_plus_sum_exp(torch.zeros(0))) == 0


@settings(max_examples=100, deadline=None, database=None)
@given(rows=st.integers(1, 5), columns=st.integers(1, 6), seed=st.integers(0, 999), shift=st.sampled_from([0.0, 1000.0]))
def test_hinge_sums_are_those_of_a_loop(rows: int, columns: int, seed: int, shift: float) -> None:
    g = torch.Generator().manual_seed(seed)
    threshold = (torch.randint(0, 5, (rows, columns), generator=g).double() + shift).requires_grad_()  # with ties
    value = (torch.randint(0, 5, (rows, columns), generator=g).double() + shift).requires_grad_()
    keep = torch.rand(rows, columns, generator=g) < 0.6
    sums, number = reduce.hinge_sums(threshold, value, keep)
    hinge = torch.where(keep[:, None, :], (threshold[:, :, None] - value[:, None, :]).clamp(min=0), 0)
    torch.testing.assert_close(sums, hinge.sum(2))
    assert torch.equal(number, (hinge > 0).sum(2))
    for x in (threshold, value):
        (found,) = torch.autograd.grad(sums.sum(), x, retain_graph=True)
        active = ((threshold[:, :, None] - value[:, None, :]) > 0) & keep[:, None, :]
        expected = active.sum(2) if x is threshold else -active.sum(1)
        torch.testing.assert_close(found, expected.double())


def test_hinge_sums_need_no_cube_of_memory() -> None:
    """2,000 rows would be 32 GB as a cube."""
    d = torch.rand(2000, 2000)
    sums, _ = reduce.hinge_sums(d[:, :10], d, torch.ones_like(d, dtype=torch.bool))
    expected = (d[:5, :10, None] - d[:5, None, :]).clamp(min=0).sum(2)
    torch.testing.assert_close(sums[:5], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hinge_sums_keep_their_digits_far_from_zero(dtype: torch.dtype) -> None:
    """Distances around 1,000 that differ by about 1."""
    g = torch.Generator().manual_seed(0)
    d = (1000 + torch.rand(8, 300, generator=g, dtype=torch.float64)).to(dtype)
    keep = torch.ones_like(d, dtype=torch.bool)
    sums, _ = reduce.hinge_sums(d + 0.1, d, keep)
    exact = ((d + 0.1)[:, :, None].double() - d[:, None, :].double()).clamp(min=0).sum(2)
    torch.testing.assert_close(sums.double(), exact, rtol=1e-4, atol=1e-4)
