from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stpipe.config.errors import TrainingError
from stpipe.engine.backends import Runtime, Single
from stpipe.engine.checkpoint import save_checkpoint
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


def test_the_loss_scaler_goes_on_as_it_was(tmp_path: Path) -> None:
    """Scale and growth of fp16 training come back from a checkpoint. The scaler is torch's own, which also works on a CPU."""

    def started() -> tuple[Runtime, torch.nn.Module]:
        torch.manual_seed(0)
        module = torch.nn.Linear(4, 1)
        runtime = Single().build(device="cpu", precision="fp32")
        runtime.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
        runtime.prepare(module, torch.optim.AdamW(module.parameters(), lr=0.1))
        return runtime, module

    def step(runtime: Runtime, number: int) -> float:
        rows = torch.full((2, 4), float(number + 1))
        rows[0, 0] = float("inf") if number == 1 else 1.0  # a step that overflows: skipped, and the scale is halved
        runtime.backward(runtime.module(rows).sum())
        runtime.clip_and_step(None, None)
        return float(runtime.accelerator.scaler.get_scale())

    whole, module = started()
    scales = [step(whole, i) for i in range(8)]
    assert scales[:2] == [64.0, 32.0] and max(scales[2:]) > 32.0
    first, _ = started()
    for i in range(3):
        step(first, i)
    saved = save_checkpoint(tmp_path, step=3, tensors=first.state_dict(), state={})
    again, other = started()
    again.load_state_dict({name: saved.tensors(name) for name in again.parts_of_state})
    assert [step(again, i) for i in range(3, 8)] == scales[3:]
    assert torch.equal(module.weight, other.weight)
