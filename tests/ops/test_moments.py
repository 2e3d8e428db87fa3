"""Moments of the similarities of all pairs, against a loop over the pairs."""

from __future__ import annotations

import pytest
import torch

from stpipe.ops.moments import pair_moments


@pytest.mark.parametrize(("rows", "width"), [(9, 4), (4, 9), (6, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_are_those_of_the_pairs(rows: int, width: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(rows)
    x = (torch.randn(rows, width, generator=g) + 0.3).to(dtype).requires_grad_()
    keep = torch.arange(rows) % 3 != 1
    mean, second = pair_moments(x, keep)
    (2 * mean + second).backward()
    exact = x.detach().double().requires_grad_()
    kept = [exact[i] for i in range(rows) if keep[i]]
    pairs = [(a * b).sum() for i, a in enumerate(kept) for j, b in enumerate(kept) if i != j]
    wanted = sum(pairs) / len(pairs), sum(s**2 for s in pairs) / len(pairs)  # type: ignore[operator]
    (2 * wanted[0] + wanted[1]).backward()
    assert abs(float(wanted[0].detach())) > 1e-3 and float(wanted[1].detach()) > 1e-3
    torch.testing.assert_close((mean.double(), second.double()), wanted, rtol=1e-5, atol=1e-6)
    assert x.grad is not None and exact.grad is not None and float(exact.grad.abs().max()) > 1e-2
    torch.testing.assert_close(
        x.grad.double(), exact.grad, rtol=1e-5 if dtype is torch.float32 else 1e-2, atol=1e-5 if dtype is torch.float32 else 1e-2
    )


@pytest.mark.parametrize("kept", [0, 1])
def test_without_a_pair_they_are_zero(kept: int) -> None:
    x = torch.randn(3, 4, requires_grad=True)
    mean, second = pair_moments(x, torch.arange(3) < kept)
    (mean + second).backward()
    assert abs(float(mean.detach())) < 1e-6 and abs(float(second.detach())) < 1e-6
    assert x.grad is not None and float(x.grad.abs().max()) < 1e-5
