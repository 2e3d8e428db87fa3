"""Which cells there are: all that the library computes, those that `validate` refuses, and a few that cover the pairs of all factors."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from scripts.equivalence_cells import BACKENDS, STRATEGIES, Cell
from scripts.equivalence_tasks import KINDS, NEGATIVES, TASKS, Answer, loss_of, validated

#: Name of a backend -> the overrides that choose it.
CHOSEN: dict[str, tuple[str, ...]] = {
    "ddp": ("backend=ddp", "backend.num_processes=2"),
    "fsdp2": ("backend=fsdp2", "backend.num_processes=2"),
    "zero1": ("backend=deepspeed_zero1", "backend.num_processes=2"),
    "zero2": ("backend=deepspeed_zero2", "backend.num_processes=2"),
    "zero3": ("backend=deepspeed_zero3", "backend.num_processes=2", "backend.small_parameters=0"),
}
#: The same with options, which are measured for the first task only.
OPTIONS = tuple(name for name in BACKENDS if name not in CHOSEN and name != "single")
PROCESSES = (1, 2, 4)
BATCHES = (1, 2)
#: Tasks of each coupling that are measured with clipping and over two epochs as well.
SAMPLES = (("mnrl", 1), ("cosent", 0), ("lambda", 0), ("splade of mnrl", 0))
#: What a cell takes under backends that exchange much, and what starting one takes, in cells of the others.
COST, START_COST = {"fsdp2": 2, "zero3": 5}, 5
#: A key of the configuration in a message.
KEY = re.compile(r"\b(?:loss|strategy|backend|dataset|model|trainer|sampler)\.[a-z_.]+")


@dataclass(frozen=True)
class Way:
    """What `validate` can tell apart; it does not look at the number of processes, and accumulation is always right."""

    task: str
    negatives: int
    strategy: str
    backend: str

    def answer(self) -> Answer:
        return validated(self.task, self.negatives, self.strategy, CHOSEN[self.backend])


def ways(backends: Iterable[str] = CHOSEN, tasks: Iterable[str] = TASKS) -> list[Way]:
    """Every combination of loss, negatives, strategy and backend."""
    return [Way(*found) for found in itertools.product(tasks, NEGATIVES, STRATEGIES, backends)]


def computed(way: Way) -> bool:
    """Whether the library computes it, by the losses and strategies themselves."""
    spec = TASKS[way.task]
    if way.negatives not in spec.formats:
        return False
    if way.strategy == "two_pass" and spec.learns:
        return False
    return loss_of(way.task, way.negatives).effective_coupling() in STRATEGIES[way.strategy].couplings


def cells_of(way: Way, processes: int) -> list[Cell]:
    """The cells of a way that is computed."""
    return [Cell(way.task, way.negatives, way.strategy, way.backend, processes, batches) for batches in BATCHES]


def measured_cells(found: Sequence[Way], processes: int, *, every: bool) -> list[Cell]:
    """The cells of the ways that are computed. Unless `every`, with other than two processes each way with one batch a step or with two, in
    turn: every pair of values of any two factors is measured all the same."""
    cells = [cells_of(way, processes) for way in found if computed(way)]
    if every or processes == 2:
        return [cell for both in cells for cell in both]
    return [both[i % len(both)] for i, both in enumerate(cells)]


def further_cells(backends: Iterable[str], processes: int) -> Iterator[Cell]:
    """Clipping, two epochs and the options of backends, for some tasks."""
    for backend in backends:
        for task, negatives in SAMPLES:
            base = Cell(task, negatives, "recompute", backend, processes, 2)
            yield replace(base, clip=True)
            yield replace(base, batches=1, epochs=2)
    if set(backends) >= set(CHOSEN):
        for backend, (task, negatives), strategy in itertools.product(OPTIONS, SAMPLES[:1], ("plain", "two_pass")):
            yield Cell(task, negatives, strategy, backend, processes, 2)


def keys_named(message: str) -> set[str]:
    """The keys of the configuration that a message names; it begins with the one that the problem is put at."""
    return {key.rstrip(".") for key in KEY.findall(message)}


def covering(cells: Sequence[Cell]) -> list[Cell]:
    """A few cells in which every task occurs, and every pair of values of the other factors that occurs in any cell; with few starts, which
    take longer than cells."""
    wanted = {pair for cell in cells for pair in pairs(cell)}
    chosen: list[Cell] = []
    starts: set[tuple[str, ...]] = set()

    def take(candidates: Sequence[Cell]) -> None:
        best = max(
            candidates, key=lambda c: (1 + len(wanted & pairs(c))) / (COST.get(c.backend, 1) + (0 if c.start in starts else START_COST))
        )
        chosen.append(best)
        starts.add(best.start)
        wanted.difference_update(pairs(best))

    for task in dict.fromkeys(cell.task for cell in cells):
        take([c for c in cells if c.task == task])
    while wanted:
        take([c for c in cells if wanted & pairs(c)])
    return chosen


def pairs(cell: Cell) -> set[frozenset[tuple[str, object]]]:
    """Pairs of values of the factors: coupling, parameters of the loss, kind of model, negatives, strategy, backend, processes, batches."""
    spec = TASKS[cell.task]
    values = {
        "coupling": loss_of(cell.task, cell.negatives).effective_coupling(),
        "learns": spec.learns,
        "kind": KINDS[spec.model],
        "negatives": cell.negatives,
        "strategy": cell.strategy,
        "backend": cell.backend,
        "processes": cell.processes,
        "batches": cell.batches,
    }
    return {frozenset(pair) for pair in itertools.combinations(values.items(), 2)}


def short_form() -> dict[int, list[Cell]]:
    """By number of processes, the cells that the tests measure: every task, backend, strategy and number of processes."""
    found = [way for way in ways() if computed(way)]
    two = covering([cell for way in found for cell in cells_of(way, 2)])
    two += [Cell("mnrl", 1, "recompute", backend, 2, 2, clip=True) for backend in CHOSEN]
    two += [Cell("mnrl", 1, "recompute", backend, 2, epochs=2) for backend in ("ddp", "zero2")]
    few = [Cell("mnrl", 1, "recompute", backend, 1, 2) for backend in CHOSEN]
    several = (("mnrl", 0, "recompute"), ("triplet", 1, "micro"), ("cosent", 0, "two_pass"))
    four = [Cell(task, n, s, backend, 4, 2) for backend in CHOSEN for task, n, s in several]
    return {1: few, 2: two, 4: four}
