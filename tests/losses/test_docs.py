"""docs/losses.md knows every loss, its aliases and its options."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import stpipe.losses  # noqa: F401  (registers)
from stpipe.config.registry import LOSSES

NAMES = [n for n in LOSSES if LOSSES.get(n).__module__.startswith("stpipe.")]


@pytest.mark.parametrize("name", NAMES)
def test_table_and_section(name: str, repository: Path) -> None:
    text = (repository / "docs" / "losses.md").read_text(encoding="utf-8")
    row = next((line for line in text.splitlines() if line.startswith(f"| `{name}` |")), None)
    assert row is not None, f"docs/losses.md has no table row for {name}"
    assert re.search(rf"^## .*\b{name}\b", text, re.M), f"docs/losses.md has no section on {name}"
    cls = LOSSES.get(name)
    _, documented, data, coupling, options = (cell.strip() for cell in row.strip("|").split("|"))
    assert all(alias in documented for alias, target in LOSSES.aliases().items() if target == name)
    assert all(re.search(rf"\b{f.name}\b", options) for f in dataclasses.fields(cls))
    if not cls.wraps:  # type: ignore[attr-defined]
        assert coupling == cls.coupling  # type: ignore[attr-defined]
        assert data.split(", ") == list(cls.formats)  # type: ignore[attr-defined]
