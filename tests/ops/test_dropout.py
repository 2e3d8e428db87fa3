"""Dropout with cheap random numbers: exact probability, independence, scaling, gradient, reproducibility."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from stpipe.ops.dropout import Dropout, drop_bytes, use_cheap_dropout


@pytest.mark.parametrize("p", [0.001, 0.1, 0.25, 0.3, 0.5, 0.9])
def test_share_of_dropped_elements(p: float) -> None:
    torch.manual_seed(0)
    count = 4_000_003  # no multiple of 8
    values, threshold = drop_bytes(count, p)
    dropped = values < threshold
    error = math.sqrt(p * (1 - p) / count)
    assert abs(float(dropped.double().mean()) - p) < 5 * error
    # 25 / 256 instead of 0.1 would be 16 standard errors away
    pairs = (dropped[1:] & dropped[:-1]).double().mean()
    assert abs(float(pairs) - p * p) < 5 * math.sqrt(p * p * (1 - p * p) / count) + 2 * p * error
    for lane in range(8):  # bytes of one 64-bit word are independent too
        assert abs(float(dropped[lane::8].double().mean()) - p) < 5 * error * math.sqrt(8)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.002])
def test_forward_and_backward_use_the_same_mask(p: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 500, requires_grad=True)
    y = Dropout(p)(x)
    kept = y != 0
    assert 0 < int((~kept).sum()) < x.numel()
    torch.testing.assert_close(y, torch.where(kept, x / (1 - p), 0))
    (grad,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(grad, kept / (1 - p))


def test_views_and_half_precision() -> None:
    torch.manual_seed(0)
    x = torch.ones(30, 40, dtype=torch.bfloat16).t()
    y = Dropout(0.5)(x)
    assert y.shape == x.shape and set(y.unique().tolist()) == {0.0, 2.0}


def test_follows_the_global_seed() -> None:
    x = torch.ones(1000)
    torch.manual_seed(1)
    first, second = Dropout(0.3)(x), Dropout(0.3)(x)
    torch.manual_seed(1)
    assert torch.equal(Dropout(0.3)(x), first)
    assert not torch.equal(first, second)


def test_evaluation_and_zero_are_the_identity() -> None:
    x = torch.randn(10)
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros(10))


def test_replaces_only_plain_dropout() -> None:
    class Own(nn.Dropout):
        pass

    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.25), nn.Sequential(Own(0.5), nn.Dropout(0.1))).eval()
    keys = list(model.state_dict())
    use_cheap_dropout(model)
    assert type(model[1]) is Dropout and model[1].p == 0.25 and not model[1].training
    assert type(model[2][0]) is Own and type(model[2][1]) is Dropout
    assert list(model.state_dict()) == keys
