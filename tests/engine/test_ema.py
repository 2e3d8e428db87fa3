from __future__ import annotations

import pytest
import torch
from torch import nn

from stpipe.engine.ema import WeightAverage


def test_average_follows_the_recurrence() -> None:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(0.0)
    average = WeightAverage(layer, decay=0.5)
    expected = 0.0
    for step, value in enumerate([1.0, 2.0, 3.0]):
        layer.weight.data.fill_(value)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with average.swapped():
        assert layer.weight.item() == pytest.approx(expected)
    assert layer.weight.item() == 3.0


def test_state_round_trip() -> None:
    layer = nn.Linear(2, 2)
    average = WeightAverage(layer, decay=0.9)
    layer.weight.data.add_(1.0)
    average.update()
    other = WeightAverage(nn.Linear(2, 2), decay=0.9)
    other.load_state_dict({k: v.clone() for k, v in average.state_dict().items()})
    assert other.num_updates == 1
    assert torch.equal(other.state_dict()["weight"], average.state_dict()["weight"])
