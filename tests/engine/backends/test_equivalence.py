"""Several processes take the step of one, whatever the loss, the strategy and the backend. scripts/equivalence.py measures the whole table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scripts.equivalence_cells import BUDGET, OBJECTIVES, Cell, Outcome, difference, run_all, run_cell
from stpipe.core.peers import Peers
from stpipe.engine.backends import DDP, FSDP2, Backend, DeepSpeed, Single
from stpipe.engine.strategies import Micro, Plain, Recompute, TwoPass

TOLERANCE = 1e-5
BACKENDS: dict[str, Backend] = {
    "ddp": DDP(),
    "fsdp2": FSDP2(),
    "fsdp2 whole after forward": FSDP2(reshard_after_forward=False),
    "zero1": DeepSpeed(stage=1),
    "zero2": DeepSpeed(stage=2),
    "zero2 offload": DeepSpeed(stage=2, offload_optimizer=True),
    "zero3": DeepSpeed(stage=3, small_parameters=0),
}
#: Every coupling, uneven counts, two batches a step with clipping.
CELLS = [
    Cell("mnrl, 1 negative", Plain(BUDGET), DDP()),
    Cell("mnrl, 0 negatives", Recompute(BUDGET), DDP(), 2, 0.5),
    Cell("cosent", TwoPass(BUDGET), DDP(), 2),
    Cell("splade of mnrl (FLOPS), 1 negative", Recompute(BUDGET), DDP()),
    Cell("lambda (reranker)", Micro(BUDGET), DDP(), 2, 0.5),
]


def check(cells: list[Cell], processes: int) -> None:
    """Compare each cell with one process and one forward."""
    found = run_all(cells, processes)
    assert len(found) == len(cells) > 0
    for cell, outcome in zip(cells, found, strict=True):
        assert isinstance(outcome, Outcome), f"{cell}: {outcome}"
        expected = run_cell(cell.reference, Peers())
        assert difference(outcome, expected) <= TOLERANCE, cell
        assert outcome.norm == pytest.approx(expected.norm, rel=1e-4), cell


@pytest.mark.slow
@pytest.mark.parametrize("backend", list(BACKENDS))
def test_two_processes_take_the_step_of_one(backend: str) -> None:
    check([replace(cell, backend=BACKENDS[backend]) for cell in CELLS], 2)


@pytest.mark.slow
def test_every_objective_on_two_processes() -> None:
    check([Cell(name, Plain(BUDGET), DDP(), 2) for name in OBJECTIVES], 2)


@pytest.mark.slow
def test_four_processes() -> None:
    check([*CELLS, replace(CELLS[0], backend=FSDP2())], 4)


def test_the_comparison_can_fail() -> None:
    """A gradient that is scaled, and batches that are weighted equally although they count differently."""
    cell = Cell("mnrl, 1 negative", Plain(BUDGET), Single(), 2)
    expected = run_cell(cell, Peers())
    assert difference(expected, expected) == 0
    scaled = replace(expected, change={k: 1.001 * v for k, v in expected.change.items()})
    assert difference(scaled, expected) > 50 * TOLERANCE
    assert difference(run_cell(replace(cell, accumulation=1), Peers()), expected) > 100 * TOLERANCE
    clipped = run_cell(replace(cell, max_grad_norm=0.5), Peers())
    assert difference(clipped, expected) > 0.5 and clipped.norm == pytest.approx(expected.norm)
    with pytest.raises(AssertionError, match="nothing to compare"):
        difference(expected, replace(expected, change={k: torch.zeros_like(v) for k, v in expected.change.items()}))


def test_the_script_is_where_the_guide_says(repository: Path) -> None:
    assert (repository / "scripts" / "equivalence.py").exists()
