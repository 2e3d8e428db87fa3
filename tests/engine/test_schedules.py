from __future__ import annotations

import pytest
import torch
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from stpipe.engine.schedules import Constant, Cosine, Linear, Schedule


def reference(make: object, **kwargs: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer, **kwargs)  # type: ignore[operator]
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Linear(warmup=0.25), reference(get_linear_schedule_with_warmup, num_warmup_steps=10, num_training_steps=40)),
        (Cosine(warmup=10), reference(get_cosine_schedule_with_warmup, num_warmup_steps=10, num_training_steps=40)),
        (Constant(warmup=0.25), reference(get_constant_schedule_with_warmup, num_warmup_steps=10)),
    ],
)
def test_equals_transformers(schedule: Schedule, expected: list[float]) -> None:
    assert [schedule.factor(s, 40) for s in range(40)] == pytest.approx(expected)


def test_min_ratio_is_the_floor() -> None:
    assert Linear(warmup=0, min_ratio=0.1).factor(40, 40) == pytest.approx(0.1)
    assert Cosine(warmup=0, min_ratio=0.1).factor(0, 40) == pytest.approx(1.0)
