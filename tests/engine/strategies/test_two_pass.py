"""`two_pass`: the loss and gradients of `plain`, dropout on, for every kind of representation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from stpipe.config.errors import ConfigError
from stpipe.core.batch import Batch
from stpipe.core.context import StepContext
from stpipe.core.reps import Rep
from stpipe.core.result import LossOutput
from stpipe.engine.backends import Runtime
from stpipe.engine.strategies import Plain, Strategy, TwoPass
from stpipe.engine.train_module import TrainModule
from stpipe.engine.views import representations, scores
from stpipe.losses import (
    AdaptiveLayerLoss,
    CoSENTLoss,
    CSRLoss,
    LambdaLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
    SoftmaxLoss,
    SpladeLoss,
)
from stpipe.losses.base import Loss
from stpipe.models.encoder import Encoder
from stpipe.models.modules import Pooling, SparseAutoEncoder
from tests.engine.test_train_module import DOCUMENTS, QUERIES, batch_of, routed
from tests.engine.tiny import assert_same_gradients, pair_batch, random_batch, scorer, started, step_gradients, tiny_encoder
from tests.models.tiny import make_backbone
from tests.models.tiny_splade import make_splade

CTX = StepContext(step=3, num_steps=10, seed=5)
ROLES = ("anchor", "positive", "negative_1")
DENSE: dict[str, Loss] = {
    "mnrl": MultipleNegativesRankingLoss(),
    "cosent": CoSENTLoss(),
    "matryoshka": MatryoshkaLoss(loss=MultipleNegativesRankingLoss(), dims=(16, 8)),
    "adaptive_layer": AdaptiveLayerLoss(loss=MultipleNegativesRankingLoss(), n_layers_per_step=None),
}


def packed_splade() -> Encoder:
    encoder = make_splade("bert").train()
    encoder.layout = "packed"
    return encoder


def autoencoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder([make_backbone("bert"), Pooling(32), SparseAutoEncoder(32, hidden_dim=64, k=4, k_aux=8)]).train()


def both(encoder, loss: Loss, batches: list[Batch], *, budget: int = 32, view=representations) -> list:
    found = []
    for strategy in (Plain(token_budget=budget), TwoPass(token_budget=budget)):
        module = TrainModule(encoder(), {"default": loss}, strategy, view=view)
        found.append(step_gradients(started(module), batches, CTX))
    return found


def assert_equal(plain: tuple, two_pass: tuple, *, tolerance: float = 1e-6) -> None:
    assert two_pass[0] == pytest.approx(plain[0], rel=1e-6) and plain[0] > 0
    assert_same_gradients(two_pass[1], plain[1], tolerance=tolerance)


@pytest.mark.parametrize("name", list(DENSE))
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_equals_plain_with_dropout_on(name: str, layout: str) -> None:
    batches = [random_batch(9, roles=ROLES), random_batch(5, roles=ROLES, seed=1)]
    assert_equal(*both(lambda: tiny_encoder(layout=layout), DENSE[name], batches), tolerance=1e-5)


@pytest.mark.parametrize("budget", [1, 7, 64, 10_000])
def test_any_budget(budget: int) -> None:
    assert_equal(*both(tiny_encoder, DENSE["mnrl"], [random_batch(9, roles=ROLES)], budget=budget))


def test_rerankers() -> None:
    assert_equal(*both(scorer, LambdaLoss(), [pair_batch([4, 1, 7, 2, 3])], view=scores))


@pytest.mark.parametrize("encoder", [packed_splade, routed])
def test_sparse_models(encoder) -> None:
    loss = SpladeLoss(query_weight=1e-2, document_weight=1e-2)
    plain, two_pass = both(encoder, loss, [batch_of(QUERIES, DOCUMENTS)])
    assert_equal(plain, two_pass, tolerance=1e-5)
    assert any("static" in name or "mlm" in name.lower() or "bias" in name for name in two_pass[1])


def test_an_autoencoder_whose_reconstructions_are_further_outputs() -> None:
    plain, two_pass = both(autoencoder, CSRLoss(), [batch_of(QUERIES, DOCUMENTS)])
    assert_equal(plain, two_pass, tolerance=1e-5)
    assert any("decoder" in name or "stack.2" in name for name in two_pass[1])


def test_a_frozen_route_is_not_computed_again() -> None:
    encoder = routed()
    for module in encoder.path_of("query"):
        module.requires_grad_(False)
    module = TrainModule(encoder, {"default": SpladeLoss()}, TwoPass(token_budget=32))
    runtime, routes = started(module), []
    encoder.register_forward_hook(lambda m, args, out: routes.append((args[2], torch.is_grad_enabled())))
    _, grads = step_gradients(runtime, [batch_of(QUERIES, DOCUMENTS)], CTX)
    assert grads and ("query", False) in routes and ("document", True) in routes and ("query", True) not in routes


class Recorded(Runtime):
    """Notes what a step asks of it."""

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__(accelerator)
        self.events: list[str] = []
        self.lasts: list[bool] = []
        self.touched: list[set[str]] = []

    @contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        self.lasts.append(last)
        with super().accumulating(last=last):
            yield

    def backward(self, loss: Tensor) -> None:
        self.events.append("backward")
        self.touched.append(set())
        super().backward(loss)


def test_the_last_backward_sees_every_route() -> None:
    """Gradients are exchanged in the last backward of a step, so every parameter of the step has to take part in it."""
    module = TrainModule(routed(), {"default": SpladeLoss()}, TwoPass(token_budget=8))
    runtime = started(module, Recorded)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p, name=name: runtime.touched[-1].add(name))
    _, grads = step_gradients(runtime, [batch_of(QUERIES, DOCUMENTS)], CTX)
    assert len(runtime.touched) > 4 and runtime.touched[-1] == set(grads)
    assert runtime.touched[0] != set(grads), "the first backward has texts of one route only"
    assert runtime.lasts.count(True) == 1 and runtime.lasts[-1] is True


def test_one_forward_with_a_graph_for_each_backward() -> None:
    module = TrainModule(tiny_encoder(), {"default": DENSE["mnrl"]}, TwoPass(token_budget=32))
    runtime = started(module, Recorded)
    module.register_forward_hook(lambda m, args, out: runtime.events.append("graph" if torch.is_grad_enabled() else "none"))
    step_gradients(runtime, [random_batch(9)], CTX)
    assert runtime.events[0] == "none" and len(runtime.events) > 6
    assert runtime.events[1:] == ["graph", "backward"] * (len(runtime.events) // 2)


class Watched(TrainModule):
    """Notes where the representations that the objective sees come from."""

    seen: tuple = ()

    def objective(self, batch: Batch, reps: Mapping[str, Rep], ctx: StepContext) -> LossOutput:
        self.seen = tuple(rep.values.grad_fn for rep in reps.values())
        return super().objective(batch, reps, ctx)


def test_nothing_of_a_graph_survives_the_first_pass() -> None:
    found = []
    for strategy in (TwoPass(token_budget=32), Plain(token_budget=32)):
        module = Watched(tiny_encoder(), {"default": DENSE["mnrl"]}, strategy)
        step_gradients(started(module), [random_batch(9)], CTX)
        found.append(module.seen)
    assert found[0] == (None, None) and None not in found[1]


def test_parameters_of_the_objective_are_refused() -> None:
    with pytest.raises(ConfigError, match="two_pass does not train parameters of the objective.*SoftmaxLoss"):
        TrainModule(tiny_encoder(), {"default": SoftmaxLoss(num_labels=3)}, TwoPass())
    learned = MultipleNegativesRankingLoss(learn_scale=True)
    with pytest.raises(ConfigError, match="log_scale.*Use recompute"):
        TrainModule(tiny_encoder(), {"default": learned}, TwoPass())
    assert isinstance(TrainModule(tiny_encoder(), {"default": learned}, Plain()), nn.Module)


def test_strategies_of_a_run_by_data_set() -> None:
    strategies: dict[str, Strategy] = {"a": TwoPass(), "b": Plain()}
    module = TrainModule(tiny_encoder(), {"a": DENSE["mnrl"], "b": DENSE["cosent"]}, strategies)
    assert {name: s.name for name, s in module.strategies.items()} == {"a": "two_pass", "b": "plain"}
