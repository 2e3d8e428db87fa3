"""`micro`: whole rows in parts, a forward and a backward each, with the gradients of the whole batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stpipe.config.errors import ConfigError
from stpipe.core.batch import Batch
from stpipe.core.context import StepContext
from stpipe.engine.accumulation import Accumulation
from stpipe.engine.strategies import Micro, Plain, Strategy
from stpipe.engine.train_module import TrainModule
from stpipe.engine.views import scores
from stpipe.losses import (
    BinaryCrossEntropyLoss,
    CosineSimilarityLoss,
    LambdaLoss,
    ListNetLoss,
    MultipleNegativesRankingLoss,
    SumLoss,
    TripletLoss,
)
from stpipe.losses.base import Loss, Term
from tests.engine.tiny import (
    assert_same_gradients,
    pair_batch,
    random_batch,
    scorer,
    started,
    step_gradients,
    tiny_encoder,
)

CTX = StepContext(step=3, seed=5)
COSINE = CosineSimilarityLoss()
TEXTS: dict[str, tuple[Loss, tuple[str, ...]]] = {
    "cosine_similarity": (COSINE, ("anchor", "positive")),
    "triplet": (TripletLoss(triplet_margin=1.0), ("anchor", "positive", "negative_1")),
    "sum": (SumLoss(terms={"a": Term(TripletLoss(triplet_margin=1.0)), "b": Term(COSINE, 0.3)}), ("anchor", "positive", "negative_1")),
}
PAIRS: dict[str, Loss] = {
    "lambda": LambdaLoss(),
    "lambda_k": LambdaLoss(k=2),
    "listnet": ListNetLoss(),
    "binary_cross_entropy": BinaryCrossEntropyLoss(),
}
COUNTS = [4, 1, 7, 2, 3, 5, 1]


def texts(strategy: Strategy, loss: Loss, batches: list[Batch], *, layout: str = "packed", dropout: float = 0.0) -> tuple:
    module = TrainModule(tiny_encoder(layout=layout, dropout=dropout), {"default": loss}, strategy)
    return step_gradients(started(module), batches, CTX)


def pairs(strategy: Strategy, loss: Loss, batches: list[Batch], *, layout: str = "packed", dropout: float = 0.0) -> tuple:
    module = TrainModule(scorer(layout=layout, dropout=dropout), {"default": loss}, strategy, view=scores)
    return step_gradients(started(module), batches, CTX)


@pytest.mark.parametrize("name", list(TEXTS))
@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("budget", [1, 40, 90, 10_000])
def test_equals_plain_without_dropout(name: str, layout: str, budget: int) -> None:
    loss, roles = TEXTS[name]
    batches = [random_batch(9, roles=roles), random_batch(4, roles=roles, seed=1)]
    whole = texts(Plain(), loss, batches, layout=layout)
    cut = texts(Micro(token_budget=budget), loss, batches, layout=layout)
    assert cut[0] == pytest.approx(whole[0], rel=1e-5)
    assert_same_gradients(cut[1], whole[1])


@pytest.mark.parametrize("name", list(PAIRS))
@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("budget", [20, 60])
def test_rerankers_equal_plain_without_dropout(name: str, layout: str, budget: int) -> None:
    """Lists of different lengths; the longest one is larger than the budget."""
    batches = [pair_batch(COUNTS), pair_batch([2, 2, 6], seed=1)]
    whole = pairs(Plain(), PAIRS[name], batches, layout=layout)
    cut = pairs(Micro(token_budget=budget), PAIRS[name], batches, layout=layout)
    assert cut[0] == pytest.approx(whole[0], rel=1e-5)
    assert_same_gradients(cut[1], whole[1])


def test_a_first_part_that_counts_nothing() -> None:
    """The largest row comes first; it has no pair to order, so its count is 0."""
    batch = pair_batch([7, 2, 3])
    assert batch.targets.scores is not None
    batch.targets.scores[0] = 1.0
    batch.targets.scores[1, :2] = torch.tensor([1.0, 0.0])
    whole, cut = pairs(Plain(), LambdaLoss(), [batch]), pairs(Micro(token_budget=30), LambdaLoss(), [batch])
    assert cut[0] == pytest.approx(whole[0], rel=1e-5)
    assert_same_gradients(cut[1], whole[1])


@pytest.mark.parametrize("budget", [60, 10_000])
def test_what_holds_with_dropout_on(budget: int) -> None:
    """Gradients are those of `plain` on the parts one after the other; of `plain` on the batch when that is one part."""
    batch, strategy = random_batch(9), Micro(token_budget=budget)
    module = TrainModule(tiny_encoder(dropout=0.1), {"default": COSINE}, strategy)
    runtime = started(module)
    found = step_gradients(runtime, [batch], CTX)
    parts = strategy.parts(batch, layout="packed", device_type="cpu")
    assert (len(parts) == 1) == (budget > 1000)
    module.zero_grad(set_to_none=True)
    total, done = torch.zeros(()), 0
    for rows in parts:
        part = batch.rows(rows)
        ctx = replace(CTX, texts=done)
        total = total + plain_sum(module, part, ctx)
        done += 2 * len(part)
    (total / len(batch)).backward()
    assert found[0] == pytest.approx(float(total.detach()) / len(batch), rel=1e-6)
    assert_same_gradients(found[1], {n: p.grad for n, p in module.named_parameters() if p.grad is not None}, tolerance=1e-6)
    without = texts(strategy, COSINE, [batch])
    assert abs(found[0] - without[0]) > 1e-4, "dropout was off"
    if len(parts) == 1:
        whole = texts(Plain(token_budget=budget), COSINE, [batch], dropout=0.1)
        assert found[0] == whole[0]
        assert_same_gradients(found[1], whole[1], tolerance=0)


def plain_sum(module: TrainModule, part: Batch, ctx: StepContext) -> Tensor:
    other = TrainModule(module.encoder, {"default": COSINE}, Plain())
    return other(part, ctx).sum


def test_memory_is_that_of_one_part() -> None:
    """Bytes saved for the backward at any one time, also when one row alone is over the budget."""

    def most(strategy: Strategy, batch: Batch) -> int:
        held, peak = 0, 0

        class Held:
            def __init__(self, x: Tensor) -> None:
                nonlocal held, peak
                self.x, self.bytes = x, x.numel() * x.element_size()
                held += self.bytes
                peak = max(peak, held)

            def __del__(self) -> None:
                nonlocal held
                held -= self.bytes

        runtime = started(TrainModule(scorer(), {"default": ListNetLoss()}, strategy, view=scores))
        with torch.autograd.graph.saved_tensors_hooks(Held, lambda h: h.x):
            step_gradients(runtime, [batch], CTX)
        return peak

    many, long = pair_batch([3] * 20), pair_batch([60])
    for batch in (many, long):
        plain, micro = most(Plain(token_budget=60), batch), most(Micro(token_budget=60), batch)
        assert 0 < micro < plain / 4
    once = most(Plain(), pair_batch([3, 3]))
    assert most(Micro(token_budget=60), many) < 2 * once


def test_no_second_forward() -> None:
    module = TrainModule(tiny_encoder(), {"default": COSINE}, Micro(token_budget=60))
    runtime, forwards = started(module), []
    module.encoder.register_forward_hook(lambda m, args, out: forwards.append(len(args[0])))
    batch = random_batch(9)
    step_gradients(runtime, [batch], CTX)
    assert len(forwards) > 3 and sum(forwards) == 18
    cost = module.strategies["default"].cost(batch, layout="packed", device_type="cpu")
    assert cost.micro_batches == len(forwards) and cost.tokens == batch.num_tokens


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_cost_is_what_is_computed(layout: str) -> None:
    module = TrainModule(tiny_encoder(layout=layout), {"default": COSINE}, Micro(token_budget=90))
    runtime, computed = started(module), []

    def note(m: object, args: tuple, out: object) -> None:
        lengths = args[0].lengths
        computed.append(int(lengths.sum()) if layout == "packed" else len(lengths) * int(lengths.max()))

    module.encoder.register_forward_hook(note)
    batch = random_batch(9)
    step_gradients(runtime, [batch], CTX)
    cost = module.strategies["default"].cost(batch, layout=layout, device_type="cpu")
    assert (cost.micro_batches, cost.tokens) == (len(computed), sum(computed))


def test_logged_values_are_those_of_the_batch() -> None:
    loss, roles = TEXTS["sum"]
    outputs = []
    for strategy in (Plain(), Micro(token_budget=60)):
        module = TrainModule(tiny_encoder(dropout=0.0), {"default": loss}, strategy)
        outputs.append(strategy.run(Accumulation(started(module)), random_batch(9, roles=roles), CTX, last=True))
    for name in ("a", "b"):
        assert float(outputs[1].terms[name]) == pytest.approx(float(outputs[0].terms[name]), rel=1e-5)
    assert float(outputs[1].count) == 9


@pytest.mark.parametrize(
    ("loss", "coupling"),
    [
        (MultipleNegativesRankingLoss(), "anchor"),
        (SumLoss(terms={"a": Term(LambdaLoss()), "b": Term(BinaryCrossEntropyLoss())}), "batch"),
    ],
)
def test_refuses_what_it_cannot_compute(loss: Loss, coupling: str) -> None:
    with pytest.raises(ConfigError, match=f"'micro' computes row-coupled losses only.*is {coupling}-coupled"):
        TrainModule(tiny_encoder(), {"default": loss}, Micro())
