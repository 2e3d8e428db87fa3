"""The comparison with one process catches what it is for: each seeded fault fails it, and passes it without the fault."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scripts.equivalence_cells import LIMIT, Result
from scripts.equivalence_launch import launch
from tests.engine.backends.faults import FAULTS, VARIANTS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[object, Result]:
    """All of them, with the faults and without, from one launch of two processes."""
    cells = {cell: None for name, fault in FAULTS.items() for cell in fault.cells(name)}
    found = launch(list(cells), log=tmp_path_factory.mktemp("faults") / "log", variants=VARIANTS)
    return {result.cell: result for result in found}


@pytest.mark.parametrize("name", list(FAULTS))
def test_the_fault_is_caught(name: str, results: dict[object, Result]) -> None:
    cell = FAULTS[name].cell
    clean, faulty = results[cell], results[replace(cell, fault=name)]
    assert clean.difference is not None and clean.difference <= LIMIT, clean
    assert faulty.difference is not None and faulty.difference > 100 * LIMIT, faulty
