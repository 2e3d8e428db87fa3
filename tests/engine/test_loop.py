from __future__ import annotations

import pytest
import torch

from stpipe.config.errors import TrainingError
from stpipe.engine.loop import BestRule, memory_errors_named


@pytest.mark.parametrize(
    ("greater", "value", "best", "better"),
    [
        (True, 0.5, None, True),
        (True, 0.5, 0.4, True),
        (True, 0.5, 0.5, False),
        (False, 0.5, 0.4, False),
        (False, 0.3, 0.4, True),
        (True, float("nan"), None, False),
        (True, float("inf"), 0.4, False),
    ],
)
def test_best_rule(greater: bool, value: float, best: float | None, better: bool) -> None:
    assert BestRule("m", greater).better(value, best) is better


def test_real_out_of_memory_names_the_keys() -> None:
    with pytest.raises(TrainingError, match=r"strategy=recompute.*strategy\.token_budget"), memory_errors_named():
        torch.empty(1 << 60)


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(RuntimeError, match="shape"), memory_errors_named():
        torch.zeros(3).view(2, 2)
