"""Run directories for the tests of this folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_run", Path(__file__).with_name("make_run.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The module that makes synthetic run directories."""
    return _load()


@pytest.fixture
def run_dir(tmp_path: Path, synthetic: ModuleType) -> Path:
    """A finished run."""
    made: Path = synthetic.make_run(tmp_path / "run")
    return made


@pytest.fixture
def sparse_run_dir(tmp_path: Path, synthetic: ModuleType) -> Path:
    """A finished run of a sparse model."""
    made: Path = synthetic.make_sparse_run(tmp_path / "sparse")
    return made
