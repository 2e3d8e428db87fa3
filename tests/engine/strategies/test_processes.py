"""Strategies in several processes under DDP: the loss and gradients of one process, with uneven rows, and no step that hangs or
leaves replicas apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from stpipe.core.batch import Batch
from stpipe.core.context import StepContext
from stpipe.engine.backends import Runtime
from stpipe.engine.strategies import Micro, Plain, Recompute, Strategy, TwoPass
from stpipe.engine.train_module import TrainModule
from stpipe.engine.views import scores
from stpipe.losses import LambdaLoss, MultipleNegativesRankingLoss, SpladeLoss, TripletLoss
from tests.engine.gloo import run_distributed
from tests.engine.test_train_module import DOCUMENTS, QUERIES, batch_of, routed
from tests.engine.tiny import assert_same_gradients, pair_batch, random_batch, scorer, started, step_gradients, tiny_encoder

CTX = StepContext(step=3, num_steps=10, seed=5)
ROLES = ("anchor", "positive", "negative_1")
SHARES = {0: range(0, 6), 1: range(6, 8)}
"""Rows of each process. The second one has fewer rows than the first has parts, so it has to run along."""


def without_dropout(module: TrainModule) -> TrainModule:
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return module


def case(name: str, strategy: Strategy) -> tuple[TrainModule, list[Batch]]:
    """A module and the batches of one step, of all processes together."""
    if name == "mnrl":
        module = TrainModule(tiny_encoder(dropout=0.0), {"default": MultipleNegativesRankingLoss()}, strategy)
        return module, [random_batch(8, roles=ROLES), random_batch(8, roles=ROLES, seed=1)]
    if name == "triplet":
        module = TrainModule(tiny_encoder(dropout=0.0), {"default": TripletLoss(triplet_margin=1.0)}, strategy)
        return module, [random_batch(8, roles=ROLES), random_batch(8, roles=ROLES, seed=1)]
    if name == "lambda":
        module = TrainModule(scorer(dropout=0.0), {"default": LambdaLoss()}, strategy, view=scores)
        return module, [pair_batch([4, 1, 7, 2, 3, 4, 2, 3])]
    both = {"default": SpladeLoss(query_weight=1e-2, document_weight=1e-2), "documents": SpladeLoss(document_weight=1e-2)}
    module = without_dropout(TrainModule(routed(), both, strategy, routes={"documents": {"anchor": "document"}}))
    queries, documents = (t.rows(torch.arange(8) % 5) for t in (QUERIES, DOCUMENTS))
    batch = batch_of(queries, documents)
    alone = replace(batch_of(documents, documents), source="documents")
    return module, [batch] if name == "router" else [alone]


def ddp(module: TrainModule) -> Runtime:
    AcceleratorState._reset_state(reset_partial_state=False)
    kwargs = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=module.skips_parameters)
    runtime = Runtime(Accelerator(cpu=True, kwargs_handlers=[kwargs]))
    assert runtime.world_size == 2
    runtime.prepare(module, torch.optim.SGD(module.parameters(), lr=0.1))
    assert isinstance(runtime.module, torch.nn.parallel.DistributedDataParallel)
    return runtime


def share(name: str, strategy: Strategy) -> dict[str, Any]:
    """What one process finds: loss and gradients of two steps, of which the first moves the weights."""
    module, batches = case(name, strategy)
    runtime = ddp(module)
    rows = torch.tensor(list(SHARES[runtime.rank]))
    ctx = replace(CTX, rank=runtime.rank)
    found = []
    for _ in range(2):
        _, grads = step_gradients(runtime, [batch.rows(rows) for batch in batches], ctx)
        found.append({n: g.tolist() for n, g in grads.items()})
        runtime.clip_and_step(None, None)
    return {"steps": found, "weights": {n: p.tolist() for n, p in module.named_parameters()}}


def alone(name: str) -> list[dict[str, torch.Tensor]]:
    module, batches = case(name, Plain())
    runtime = started(module)
    for group in runtime.optimizer.param_groups:
        group["lr"] = 0.1
    found = []
    for _ in range(2):
        _, grads = step_gradients(runtime, batches, CTX)
        found.append(grads)
        runtime.clip_and_step(None, None)
    return found


CELLS = [
    *((name, strategy(token_budget=20)) for name in ("mnrl", "router", "one_route") for strategy in (Plain, Recompute, TwoPass)),
    *((name, strategy(token_budget=20)) for name in ("triplet", "lambda") for strategy in (Recompute, TwoPass, Micro)),
]


def cell_id(cell: tuple[str, Strategy]) -> str:
    return f"{cell[0]}-{cell[1].name}"


def all_shares(cells: list[tuple[str, Strategy]]) -> dict[str, Any]:
    return {cell_id(cell): share(*cell) for cell in cells}


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    """By process, what it found in each cell; all cells in one launch, because starting processes takes longest."""
    return run_distributed(all_shares, CELLS)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=cell_id)
def test_two_processes_have_the_gradients_of_one(cell: tuple[str, Strategy], results: list[dict[str, Any]]) -> None:
    found = [result[cell_id(cell)] for result in results]
    expected = alone(cell[0])
    assert len(found) == 2
    for process in found:
        for grads, reference in zip(process["steps"], expected, strict=True):
            assert_same_gradients({n: torch.tensor(g) for n, g in grads.items()}, reference, tolerance=2e-5)
    assert found[0]["weights"] == found[1]["weights"]


def test_the_cases_need_what_they_are_for() -> None:
    """Parts differ between the processes, and one route alone leaves parameters without gradient."""
    strategy = Micro(token_budget=20)
    _, (batch, *_) = case("lambda", strategy)
    parts = [strategy.parts(batch.rows(torch.tensor(list(rows))), layout="packed", device_type="cpu") for rows in SHARES.values()]
    assert len(parts[0]) > len(SHARES[1])
    module, batches = case("one_route", Plain())
    _, grads = step_gradients(started(module), batches, CTX)
    assert module.skips_parameters and set(grads) < {n for n, _ in module.named_parameters()}
