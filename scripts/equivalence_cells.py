"""One optimiser step of a small model under a loss, a strategy, a backend and a number of processes: what scripts/equivalence.py compares.

The reference knows no backend, strategy or collective: one process, one forward over all rows, the sums of the batches over their counts,
one backward. Several cells share a started backend; before each one the weights are set back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scripts.equivalence_tasks import KINDS, TASKS, loss_of, make_batch, make_encoder
from stpipe.config.errors import StpipeError
from stpipe.core.batch import Batch
from stpipe.core.context import StepContext
from stpipe.core.peers import Peers
from stpipe.data.samplers import RandomSampler
from stpipe.data.stream import BatchStream
from stpipe.engine.accumulation import Accumulation
from stpipe.engine.backends import DDP, FSDP2, Backend, DeepSpeed, Runtime, Single
from stpipe.engine.strategies import Micro, Plain, Recompute, Strategy, TwoPass
from stpipe.engine.train_module import TrainModule
from stpipe.engine.views import VIEWS, View

#: Largest relative difference of gradients in fp32 that counts as equal.
LIMIT = 1e-5
#: Micro-batches are small, so that every strategy has several; the reference has one.
BUDGET, EVERYTHING = 60, 1 << 20
STEP = StepContext(step=3, num_steps=10, seed=5)
#: So large that what is subtracted, the weights, does not round the gradients; a power of two, so that it rounds nothing itself.
RATE = 1024.0
#: Rows of an epoch and of its batches, of all processes; the last batch is smaller.
EPOCH_ROWS, EPOCH_BATCH = 22, 8
SAMPLER = RandomSampler()
#: A parameter is compared by its own largest gradient if that is at least this share of the largest of all, else by the latter: biases of
#: attention keys, for one, have gradients that are zero but for rounding.
SHARE = 0.03
CLIP = 0.05

BACKENDS: dict[str, Backend] = {
    "single": Single(),
    "ddp": DDP(),
    "fsdp2": FSDP2(),
    "zero1": DeepSpeed(stage=1),
    "zero2": DeepSpeed(stage=2),
    "zero3": DeepSpeed(stage=3, small_parameters=0),
    "fsdp2, whole after forward": FSDP2(reshard_after_forward=False),
    "zero2, offload": DeepSpeed(stage=2, offload_optimizer=True),
    "zero3, offload": DeepSpeed(stage=3, small_parameters=0, offload_optimizer=True, offload_parameters=True),
}
STRATEGIES: dict[str, Strategy] = {
    "plain": Plain(BUDGET),
    "recompute": Recompute(BUDGET),
    "micro": Micro(BUDGET),
    "two_pass": TwoPass(BUDGET),
}


@dataclass(frozen=True)
class Cell:
    """What is measured. task, negatives: scripts/equivalence_tasks.py; batches: of the step; clip: with trainer.max_grad_norm;
    epochs: not one step but each of those of so many epochs, on batches as data/stream.py draws them; fault: name of a variant, for tests."""

    task: str
    negatives: int
    strategy: str
    backend: str
    processes: int
    batches: int = 1
    clip: bool = False
    epochs: int = 0
    fault: str = ""

    @property
    def objective(self) -> str:
        return f"{self.task}/{self.negatives}"

    @property
    def without_way(self) -> Cell:
        """What the reference depends on."""
        return replace(self, strategy="", backend="", processes=1, fault="")

    @property
    def max_grad_norm(self) -> float | None:
        return CLIP if self.clip else None

    @property
    def start(self) -> tuple[str, ...]:
        """Cells that agree in this share a started backend; a loss with parameters of its own or a twin has one for itself."""
        spec = TASKS[self.task]
        return (self.backend, str(self.clip), str(self.epochs), self.fault, spec.model, self.objective if spec.learns or spec.twin else "")


@dataclass(frozen=True)
class Result:
    """difference: see `difference`; None with `error`, the reason why there is none."""

    cell: Cell
    difference: float | None
    error: str = ""


@dataclass(frozen=True)
class Gradients:
    """Of each step, by parameter, after clipping; and the norm of all before it."""

    steps: tuple[Mapping[str, Tensor], ...]
    norms: tuple[float, ...]


def same(value: Any) -> Any:
    return value


def share(batch: Batch, rank: int, size: int) -> Batch:
    """A process's rows, as data/stream.py deals them out."""
    return batch.rows(torch.arange(rank * len(batch) // size, (rank + 1) * len(batch) // size))


@dataclass(frozen=True)
class Variant:
    """The parts of a measurement that a test may replace to seed a fault; without arguments those of the library."""

    view: Callable[[View], View] = same
    accumulation: type[Accumulation] = Accumulation
    before_start: Callable[[TrainModule], Any] = same
    share: Callable[[Batch, int, int], Batch] = share
    sampler: Any = SAMPLER
    drop_last: bool = False


def make_module(cells: Sequence[Cell], variant: Variant | None = None) -> TrainModule:
    """The module that computes all objectives of some cells, each a data set of its own."""
    kind = TASKS[cells[0].task].model
    losses = {cell.objective: loss_of(cell.task, cell.negatives) for cell in cells}
    view = VIEWS[KINDS[kind]] if variant is None else variant.view(VIEWS[KINDS[kind]])
    return TrainModule(make_encoder(kind), losses, Plain(EVERYTHING), view=view)


def reference(module: TrainModule, cell: Cell) -> Gradients:
    """The gradients of one process without backend, strategy, accumulation and collectives. There must be no process group."""
    assert not torch.distributed.is_initialized()
    steps, norms = [], []
    for batches in reference_steps(cell):
        module.zero_grad(set_to_none=True)
        outputs = [module(batch, replace(STEP, micro=i)) for i, batch in enumerate(batches)]
        total: Any = sum(o.sum for o in outputs) / sum(o.count for o in outputs)
        total.backward()
        norms.append(float(torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]))))
        factor = min(1.0, CLIP / norms[-1]) if cell.clip else 1.0
        named = module.named_parameters(remove_duplicate=False)
        steps.append({name: torch.zeros_like(p) if p.grad is None else factor * p.grad for name, p in named})
    return Gradients(tuple(steps), tuple(norms))


def reference_steps(cell: Cell) -> list[list[Batch]]:
    """The batches of each step, of all processes together. The order of an epoch is that of the sampler, of which it is checked that it is one."""
    if not cell.epochs:
        return [[make_batch(cell.task, cell.negatives, i) for i in range(cell.batches)]]
    texts, found, orders = Texts(cell), [], set()
    for epoch in range(cell.epochs):
        batches = SAMPLER.batches(texts, batch_size=EPOCH_BATCH, seed=STEP.seed, epoch=epoch)  # type: ignore[arg-type]
        order = tuple(int(row) for rows in batches for row in rows)
        assert sorted(order) == list(range(EPOCH_ROWS)) and [len(rows) for rows in batches] == [8, 8, 6]
        orders.add(order)
        found += [[texts.batch(rows)] for rows in batches]
    assert len(orders) == cell.epochs, "every epoch has an order of its own"
    return found


class Texts:
    """The rows of an epoch as data/stream.py takes them."""

    def __init__(self, cell: Cell) -> None:
        self.whole = make_batch(cell.task, cell.negatives, 0, rows=EPOCH_ROWS)
        self.name = self.whole.source

    def __len__(self) -> int:
        return len(self.whole)

    def batch(self, rows: np.ndarray) -> Batch:
        return self.whole.rows(torch.from_numpy(np.ascontiguousarray(rows)))


def difference(found: Gradients, expected: Gradients) -> float:
    """Largest difference of a gradient in any step, over the largest one of its parameter (see SHARE), or of the norm if that differs more;
    infinite where steps are missing.

    Raises:
        AssertionError: the gradients are all zero, or not those of the same parameters.
    """
    assert found.steps and expected.steps, "nothing to compare: no steps"
    if len(found.steps) != len(expected.steps):
        return float("inf")
    parts = [difference_of_step(f, e) for f, e in zip(found.steps, expected.steps, strict=True)]
    return max(*parts, *(abs(f - e) / e for f, e in zip(found.norms, expected.norms, strict=True)))


def difference_of_step(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """See `difference`."""
    largest = {name: float(g.abs().max()) for name, g in expected.items()}
    most = max(largest.values(), default=0.0)
    missing = largest.keys() - found.keys()
    assert most > 1e-6 and not missing, f"nothing to compare: largest gradient {most}, no gradient for {sorted(missing)}"
    scale = {name: own if own >= SHARE * most else most for name, own in largest.items()}
    return max(float((found[name] - g).abs().max()) / scale[name] for name, g in expected.items())


class Started:
    """A started backend, and steps on it that all begin with the same weights.

    Args:
        cells: that it is for; they agree in `Cell.start`.
        peers: the processes.
        variant: of the measurement.
    """

    def __init__(self, cells: Sequence[Cell], peers: Peers, variant: Variant | None = None) -> None:
        self.variant = variant or Variant()
        first = cells[0]
        module = make_module(cells, self.variant)
        self.initial = clone(module.state_dict())
        self.variant.before_start(module)
        self.runtime: Runtime = BACKENDS[first.backend].build(
            device="cpu", precision="fp32", max_grad_norm=first.max_grad_norm, peers=peers
        )
        self.runtime.prepare(module, torch.optim.SGD(module.parameters(), lr=RATE))
        self.own = copy.deepcopy(self.runtime.own_state())

    def reset(self) -> None:
        """The weights of the beginning."""
        if self.own:
            self.runtime.load_state_dict({"module": self.initial, **copy.deepcopy(self.own)})
        else:
            self.runtime.load_module(self.initial)

    def gradients(self, cell: Cell) -> Gradients:
        """The gradients of each step over all processes, from the change of the weights; rank 0 has them."""
        strategy, module = STRATEGIES[cell.strategy], self.module
        strategy.check(module, module.losses[cell.objective], cell.objective)
        module.strategies[cell.objective] = strategy
        steps, norms = [], []
        for batches in self.steps(cell):
            self.reset()
            norms.append(self.step(strategy, batches, cell.max_grad_norm))
            after = self.runtime.state_dict()["module"]  # whole on rank 0 only
            if self.runtime.is_main:
                steps.append({k: (self.initial[k] - v.detach()) / RATE for k, v in after.items() if v.is_floating_point()})
        return Gradients(tuple(steps), tuple(norms))

    @property
    def module(self) -> Any:
        """What is trained, without the wrapper of the backend."""
        return self.runtime.unwrapped

    def steps(self, cell: Cell) -> Iterator[list[Batch]]:
        """This process's batches of each step."""
        rank, size = self.runtime.rank, self.runtime.world_size
        if not cell.epochs:
            yield [self.variant.share(make_batch(cell.task, cell.negatives, i), rank, size) for i in range(cell.batches)]
            return
        texts: Any = Texts(cell)
        stream = BatchStream(
            {texts.name: texts},
            sampler=self.variant.sampler,
            batch_size=EPOCH_BATCH // size,
            seed=STEP.seed,
            drop_last=self.variant.drop_last,
            rank=rank,
            world_size=size,
        )
        yield from ([stream[i]] for i in range(cell.epochs * len(stream)))

    def step(self, strategy: Strategy, batches: Sequence[Batch], max_grad_norm: float | None) -> float:
        """An optimiser step; returns the norm of its gradients."""
        accumulation = self.variant.accumulation(self.runtime)
        for i, batch in enumerate(batches):
            strategy.run(accumulation, batch, replace(STEP, micro=i, rank=self.runtime.rank), last=i == len(batches) - 1)
        return float(self.runtime.clip_and_step(max_grad_norm, accumulation.rescale))


def clone(state: dict[str, Any]) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in state.items()}


def measure(cells: Iterable[Cell], peers: Peers, began: Callable[[Cell], None], variants: Mapping[str, Variant]) -> Iterator[Result]:
    """Every cell in order; those that share a start should stand together. All processes call this with the same cells; the results of rank 0
    count."""
    for _, found in groupby(cells, key=lambda cell: cell.start):
        group = list(found)
        peers.begin()
        began(group[0])
        expected: dict[Cell, Gradients] = {}
        try:
            if peers.is_main:
                plain = make_module(group)
                expected = {key: reference(plain, key) for key in {c.without_way: None for c in group}}
            started = Started(group, peers, variants[group[0].fault] if group[0].fault else None)
        except (StpipeError, ValueError, NotImplementedError) as error:  # the same on all processes, before they meet
            yield from (Result(cell, None, f"{type(error).__name__}: {error}") for cell in group)
            continue
        for cell in group:
            began(cell)
            gradients = started.gradients(cell)
            yield Result(cell, difference(gradients, expected[cell.without_way]) if peers.is_main else None)
        started.runtime.close()
