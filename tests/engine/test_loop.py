from __future__ import annotations

import pytest
import torch

from stpipe.config.errors import TrainingError
from stpipe.engine.backends import Single
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


def test_saving_leaves_the_precision_as_it_is() -> None:
    """Taking the state out of the wrapped module must not take the autocast off it: training would go on in fp32 after the first checkpoint."""
    module = torch.nn.Sequential(torch.nn.Linear(4, 4))
    runtime = Single().build(device="cpu", precision="bf16")
    runtime.prepare(module, torch.optim.SGD(module.parameters(), lr=0.1))
    seen: list[torch.dtype] = []
    module[0].register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    runtime.module(torch.randn(2, 4))
    runtime.load_state_dict(runtime.state_dict())
    runtime.module(torch.randn(2, 4))
    assert seen == [torch.bfloat16, torch.bfloat16]
