from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch.runs import TROUBLE, Runs
from tests.pipeline.conftest import pairs, tiny_model

__all__ = ["pairs", "tiny_model"]


@pytest.fixture
def runs(tmp_path: Path, tiny_model: Path, pairs: Path) -> Runs:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "trouble.py").write_text(TROUBLE)
    return Runs(tmp_path / "work", tiny_model, pairs)
