"""What the sums of a step are divided by."""

from __future__ import annotations

import pytest
import torch

from stpipe.core.result import LossOutput
from stpipe.engine.accumulation import Accumulation
from tests.engine.tiny import started


def gradient(parts: list[tuple[float, float, float]]) -> float:
    """d/dw of the mean over all parts (sum's factor of w, count, share)."""
    module = torch.nn.Linear(1, 1, bias=False)
    step = Accumulation(started(module))
    for factor, count, share in parts:
        step.backward(LossOutput(module.weight.sum() * factor, torch.tensor(count)), share=share)
    assert module.weight.grad is not None
    return float(module.weight.grad) * (1.0 if step.rescale is None else float(step.rescale))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(6.0, 3.0, 1.0)], 2.0),
        ([(6.0, 3.0, 1.0), (4.0, 1.0, 1.0)], 2.5),
        ([(6.0, 3.0, 0.5), (4.0, 1.0, 0.5)], 2.5),
        ([(0.0, 0.0, 0.5), (4.0, 2.0, 0.5)], 2.0),
        ([(0.0, 0.0, 1.0)], 0.0),
    ],
)
def test_the_mean_over_all_that_is_counted(parts: list[tuple[float, float, float]], expected: float) -> None:
    assert gradient(parts) == pytest.approx(expected)


def test_a_single_batch_needs_no_second_pass_over_the_gradients() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    step = Accumulation(started(module))
    step.backward(LossOutput(module.weight.sum(), torch.tensor(3.0)))
    assert step.rescale is None


def test_the_first_factor_is_about_that_of_the_batch() -> None:
    """A quarter of a batch counts 5, so a batch counts about 20: gradients of half precision neither overflow nor vanish."""
    step = Accumulation(started(torch.nn.Linear(1, 1)))
    assert float(step.scale(torch.tensor(5.0), share=0.25)) == pytest.approx(1 / 20)
