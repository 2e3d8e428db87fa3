"""docs/coverage.md is current, and what it claims is backed by tests that exist."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_coverage", ROOT / "scripts" / "make_coverage.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


MAKE = _script()
SECTIONS = MAKE.load()
ROWS = [row for group in SECTIONS.values() for row in group]
# How many rows each part of the inventory has; a row cannot be lost by an edit.
EXPECTED = {
    "A1": 23, "A2": 4, "A3": 6, "A4": 13, "A5": 13, "A6": 10, "A7": 9, "A8": 9, "A9": 4, "A10": 4, "A11": 2, "A12": 1,
    "A13": 9, "A14": 12, "A15": 4, "A16": 3, "A17": 8, "A18": 10, "B1": 24, "B2": 16, "B3": 15, "B4": 10,
}  # fmt: skip


@lru_cache
def _tests_in(path: Path) -> frozenset[str]:
    """Names of the tests of a file: functions, and `Class::method`."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names.update(f"{node.name}::{item.name}" for item in node.body if isinstance(item, ast.FunctionDef))
    return frozenset(name for name in names if name.split("::")[-1].startswith("test_"))


def test_every_part_of_the_inventory_has_its_rows() -> None:
    found = {title.split()[0]: len(group) for title, group in SECTIONS.items()}
    assert found == EXPECTED
    assert len({row.id for row in ROWS}) == len(ROWS), "an id occurs twice"
    for title, group in SECTIONS.items():
        numbers = [int(row.id.split(".")[1]) for row in group]
        assert all(row.id.startswith(title.split()[0] + ".") for row in group), title
        assert numbers == sorted(numbers), f"{title} is out of order"


def test_rows_are_backed_by_tests_that_exist() -> None:
    problems = []
    for row in ROWS:
        if row.state not in {"done", "open"}:
            problems.append(f"{row.id}: unknown state {row.state!r}")
        if row.state == "done" and not (row.use and row.tests):
            problems.append(f"{row.id}: a done row says how to use it and names its test")
        for name in row.tests:
            path, _, test = name.partition("::")
            if not (ROOT / path).is_file():
                problems.append(f"{row.id}: {path} does not exist")
            elif test not in _tests_in(ROOT / path):
                problems.append(f"{row.id}: {path} has no test {test!r}; it has {sorted(_tests_in(ROOT / path))}")
    assert not problems, "\n".join(problems)


def test_recipes_that_the_table_names_exist() -> None:
    named = {name for row in ROWS for name in re.findall(r"\+recipe=([a-z0-9_]+)", row.use)}
    missing = sorted(name for name in named if not (ROOT / "recipes" / f"{name}.yaml").is_file())
    assert not missing, f"docs/coverage.yaml names recipes that do not exist: {missing}"


def test_page_is_current() -> None:
    page = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
    assert page == MAKE.render(SECTIONS), "run scripts/make_coverage.py"
