"""Several processes take the step of one, whatever the loss, the strategy and the backend: the short form of scripts/equivalence.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scripts.equivalence_cells import CLIP, LIMIT, Cell, Gradients, difference, make_module, measure, reference
from scripts.equivalence_launch import launch
from scripts.equivalence_matrix import CHOSEN, Way, computed, keys_named, measured_cells, short_form, ways
from scripts.equivalence_tasks import NEGATIVES, TASKS
from stpipe.config.builtin import load_components
from stpipe.config.registry import LOSSES
from stpipe.core.peers import Peers

Cells = dict[int, list[Cell]]


@pytest.fixture(scope="module")
def cells() -> Cells:
    return short_form()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_processes_take_the_step_of_one(cells: Cells, tmp_path: Path) -> None:
    """1, 2 and 4 of them, in one test, so that what they import is imported once."""
    assert list(cells) == [1, 2, 4]
    for processes, group in cells.items():
        results = launch(group, log=tmp_path / f"log-{processes}")
        assert {r.cell for r in results} == set(group) and len(results) >= 5
        bad = [r for r in results if r.difference is None or not r.difference <= LIMIT]
        assert not bad, "\n".join(map(str, bad))


@pytest.mark.slow
def test_the_short_form_has_every_task_backend_strategy_and_coupling(cells: Cells) -> None:
    two = [c for c in cells[2] if not c.clip and not c.epochs]
    assert {c.task for c in two} == set(TASKS)
    found = {(w.strategy, w.backend) for w in ways() if computed(w)}
    assert {(c.strategy, c.backend) for c in two} >= found and len(found) == 4 * len(CHOSEN)
    assert {c.negatives for c in two} == set(NEGATIVES)
    assert any(c.clip for c in cells[2]) and any(c.epochs for c in cells[2])


@pytest.mark.slow
def test_validate_takes_what_is_computed_and_refuses_the_rest_by_both_keys() -> None:
    """One way of each task, number of negatives and strategy, with the backends in turn; scripts/equivalence.py asks about all."""
    backends = list(CHOSEN)
    asked = [way for i, way in enumerate(ways(backends[:1]))]
    asked = [replace(way, backend=backends[i % len(backends)]) for i, way in enumerate(asked) if i % 3 == 0]
    refused = [way for way in asked if not computed(way)]
    assert len(refused) > 40 and len(asked) - len(refused) > 40
    for way in asked:
        answer = way.answer()
        assert (answer.loss is not None) == computed(way), f"{way}: {answer.messages}"
        assert answer.seconds < 2
        for message in answer.messages:
            assert len(keys_named(message)) >= 2, f"{way}: names one key only: {message}"


def test_every_pair_of_values_is_measured() -> None:
    """Of two tasks that agree in nothing, with what scripts/equivalence.py infers left out."""
    found = ways(tasks=("mnrl", "triplet"))
    every = [cell for size in (1, 2, 4) for cell in measured_cells(found, size, every=True)]
    fewer = [cell for size in (1, 2, 4) for cell in measured_cells(found, size, every=False)]
    assert len(fewer) == len(every) * 2 / 3 and set(fewer) < set(every)
    names = [f.name for f in fields(Cell)]
    for one, other in combinations(names, 2):
        assert {(getattr(c, one), getattr(c, other)) for c in fewer} == {(getattr(c, one), getattr(c, other)) for c in every}, (one, other)


def test_every_loss_is_a_task() -> None:
    load_components()
    used = {name for task in TASKS.values() for name in names_of(task.overrides)}
    assert set(LOSSES) <= used, f"no task of scripts/equivalence_tasks.py trains {sorted(set(LOSSES) - used)}"


def names_of(overrides: tuple[str, ...]) -> set[str]:
    """Losses that some overrides choose, inside others too."""
    words = " ".join(overrides).replace("loss=", "name: ", 1)
    return {part.split(",")[0].split("}")[0].split()[0].strip() for part in words.split("name: ")[1:]}


def gradients_of(cell: Cell) -> Gradients:
    return reference(make_module([cell]), cell)


def test_one_process_gives_the_gradients_of_the_reference() -> None:
    """Every strategy, micro-batches, accumulation, clipping and epochs, in this process."""
    base = Cell("triplet", 1, "plain", "single", 1)
    found = [base, replace(base, strategy="recompute", batches=2), replace(base, strategy="micro", batches=2, clip=True)]
    found += [replace(base, strategy="two_pass", batches=2), replace(base, epochs=2)]
    results = list(measure(sorted(found, key=lambda c: c.start), Peers(), lambda cell: None, {}))
    assert len(results) == len(found)
    for result in results:
        assert result.difference is not None and result.difference <= LIMIT, result


SMALL = "encoder.stack.0.model.embeddings.LayerNorm.bias"


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (lambda g: {k: 1.001 * v for k, v in g.items()}, 50),
        (lambda g: {**g, SMALL: g[SMALL] * 1.001}, 50),
        (lambda g: {**g, SMALL: torch.zeros_like(g[SMALL])}, 1e4),
    ],
)
def test_the_comparison_can_fail(change: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]], least: float) -> None:
    expected = gradients_of(Cell("mnrl", 1, "plain", "single", 1))
    assert difference(expected, expected) == 0
    assert difference(replace(expected, steps=(change(expected.steps[0]),)), expected) > least * LIMIT
    assert difference(replace(expected, norms=(expected.norms[0] * 1.001,)), expected) > 50 * LIMIT
    assert difference(replace(expected, steps=expected.steps * 2, norms=expected.norms * 2), expected) == float("inf")


def test_batches_and_clipping_matter() -> None:
    cell = Cell("mnrl", 1, "plain", "single", 1, 2)
    expected = gradients_of(cell)
    assert difference(gradients_of(replace(cell, batches=1)), expected) > 100 * LIMIT
    clipped = gradients_of(replace(cell, clip=True))
    assert expected.norms == pytest.approx(clipped.norms) and expected.norms[0] > 2 * CLIP
    assert difference(clipped, expected) > 0.5


def test_empty_comparisons_are_no_agreement() -> None:
    expected = gradients_of(Cell("mnrl", 1, "plain", "single", 1))
    nothing = {k: torch.zeros_like(v) for k, v in expected.steps[0].items()}
    for found, wanted in (
        (expected, replace(expected, steps=(nothing,))),
        (replace(expected, steps=({},)), expected),
        (Gradients((), ()), expected),
    ):
        with pytest.raises(AssertionError, match="nothing to compare"):
            difference(found, wanted)


def test_a_way_that_is_not_computed() -> None:
    assert not computed(Way("mnrl", 1, "micro", "ddp")) and not computed(Way("cosent", 1, "plain", "ddp"))
    assert not computed(Way("softmax", 0, "two_pass", "ddp")) and computed(Way("softmax", 0, "micro", "ddp"))
