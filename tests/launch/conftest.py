from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch.runs import TROUBLE, Runs, write_pairs
from tests.pipeline.conftest import pairs, tiny_model

__all__ = ["pairs", "tiny_model"]


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Runs:
    """The same for all tests of a file, so that what they compare with is trained once."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "work").mkdir()
    (folder / "work" / "trouble.py").write_text(TROUBLE)
    return Runs(folder / "work", tiny_model, write_pairs(folder / "pairs.jsonl"))


@pytest.fixture
def runs(tmp_path: Path, tiny_model: Path, pairs: Path) -> Runs:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "trouble.py").write_text(TROUBLE)
    return Runs(tmp_path / "work", tiny_model, pairs)
