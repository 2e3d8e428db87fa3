from __future__ import annotations

from collections import Counter

import pytest
import torch

from stpipe.core.context import StepContext
from stpipe.engine.strategies import Plain, Recompute, Strategy
from stpipe.engine.train_module import TrainModule
from stpipe.losses import CoSENTLoss, MatryoshkaLoss, MultipleNegativesRankingLoss
from stpipe.losses.base import Loss
from tests.engine.tiny import assert_same_gradients, gradients, random_batch, tiny_encoder

ROLES = ("anchor", "positive", "negative_1")
LOSSES = {
    "mnrl": MultipleNegativesRankingLoss(),
    "cosent": CoSENTLoss(),
    "matryoshka": MatryoshkaLoss(loss=MultipleNegativesRankingLoss(), dims=(16, 8)),
}


def step(strategy: Strategy, loss: Loss, *, layout: str = "packed", dropout: float = 0.1, rows: int = 9) -> tuple[float, dict, Counter]:
    module = TrainModule(tiny_encoder(layout=layout, dropout=dropout), {"default": loss}, strategy)
    calls: Counter = Counter()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p, name=name: calls.update([name]))
    output = module(random_batch(rows, roles=ROLES), StepContext(step=3, seed=5))
    output.mean.backward()
    return float(output.mean), gradients(module), calls


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_recompute_equals_plain_with_dropout_on(loss: str, layout: str) -> None:
    plain = step(Plain(token_budget=32), LOSSES[loss], layout=layout)
    recompute = step(Recompute(token_budget=32), LOSSES[loss], layout=layout)
    assert recompute[0] == plain[0]
    assert_same_gradients(recompute[1], plain[1], tolerance=1e-6)


def test_dropout_is_on_in_the_comparison() -> None:
    on, off = step(Plain(token_budget=32), LOSSES["mnrl"]), step(Plain(token_budget=32), LOSSES["mnrl"], dropout=0.0)
    assert abs(on[0] - off[0]) > 1e-4


@pytest.mark.parametrize("strategy", [Plain, Recompute])
@pytest.mark.parametrize("budget", [1, 7, 64, 10_000])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_any_budget_and_layout_gives_the_same_gradients(strategy: type[Strategy], budget: int, layout: str) -> None:
    whole = step(Plain(token_budget=10_000), LOSSES["mnrl"], layout="padded", dropout=0.0)
    cut = step(strategy(token_budget=budget), LOSSES["mnrl"], layout=layout, dropout=0.0)
    assert cut[0] == pytest.approx(whole[0], rel=1e-5)
    assert_same_gradients(cut[1], whole[1])


def test_each_gradient_hook_fires_once_per_step() -> None:
    """One graph and one backward however many micro-batches: what DDP, FSDP and DeepSpeed rely on."""
    calls = step(Recompute(token_budget=16), LOSSES["mnrl"])[2]
    assert calls and set(calls.values()) == {1}


def test_recompute_holds_fewer_activations() -> None:
    def saved_bytes(strategy: Strategy) -> int:
        total = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        module = TrainModule(tiny_encoder(), {"default": LOSSES["mnrl"]}, strategy)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            module(random_batch(32), StepContext())
        return total

    plain, recompute = saved_bytes(Plain(token_budget=64)), saved_bytes(Recompute(token_budget=64))
    assert 0 < recompute < plain / 5


def test_dropout_differs_between_steps_and_ranks() -> None:
    module = TrainModule(tiny_encoder(), {"default": LOSSES["mnrl"]}, Plain())
    batch = random_batch(6)

    def value(**place: int) -> float:
        return float(module(batch, StepContext(**place)).mean)

    first = value(seed=1)
    assert value(seed=1) == first
    assert len({first, value(seed=2), value(seed=1, step=1), value(seed=1, micro=1), value(seed=1, rank=1)}) == 5
