"""Runs of the three tasks, killed a dozen times and more at named places: none is lost, none is different. scripts/soak_resume.py is the long form."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak.compare import differences, read_trace
from tests.soak.faults import Point
from tests.soak.named import PLANS

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "tests.soak.named")


def test_every_place_is_named() -> None:
    """Steps twice within one epoch and on its boundary, evaluations, and each operation on each file of a checkpoint."""
    assert {cell.split()[0] for cell in PLANS} == {"dense", "sparse", "reranker"}
    wanted = [kind for plan in PLANS.values() for kind in plan.kinds]
    assert sum(plan.kills for plan in PLANS.values()) >= 12
    assert {"twice in an epoch", "epoch boundary", "evaluation"} == set(wanted)
    saves = {(operation, when) for plan in PLANS.values() for operation, _, when in plan.save}
    assert {
        ("write", "half"),
        ("write", "after"),
        ("fsync", "before"),
        ("fsync", "after"),
        ("rename", "before"),
        ("rename", "after"),
    } < saves


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_runs_end_as_those_that_were_not(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([*COMMAND, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=880)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = {o["cell"]: o for o in map(json.loads, (tmp_path / "outcomes.jsonl").read_text().splitlines())}
    assert outcomes.keys() == PLANS.keys()
    for name, outcome in outcomes.items():
        assert outcome["lost"] is None and outcome["different"] == [], name
        assert len(outcome["kills"]) == PLANS[name].kills and outcome["missed"] == 0, f"{name}: every point was met"


def write_run(folder: Path, name: str, *, rows: list[int], weight: bytes = b"w", value: float = 0.5) -> None:
    run = folder / name
    (run / "model").mkdir(parents=True)
    (run / "model" / "model.safetensors").write_bytes(weight)
    (run / "status.json").write_text(json.dumps({"state": "finished", "exit_code": 0}))
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "split": "train", "name": "loss", "value": value}) + "\n")
    steps = [{"step": i, "rows": [["default", [row]]], "lr": [0.1], "loss": "0x1"} for i, row in enumerate(rows)]
    (folder / f"{name}.rank-0.log").write_text("".join(json.dumps(s) + "\n" for s in steps) + '{"step": 9, "ro')


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    write_run(tmp_path, "whole", rows=[3, 1, 2])
    write_run(tmp_path, "same", rows=[3, 1, 2])
    assert differences(tmp_path, "whole", "same", processes=1) == []
    write_run(tmp_path, "rows", rows=[3, 2, 2])
    write_run(tmp_path, "short", rows=[3, 1])
    write_run(tmp_path, "weights", rows=[3, 1, 2], weight=b"v")
    write_run(tmp_path, "metric", rows=[3, 1, 2], value=0.6)
    for name, part in {"rows": "step 1: rows", "short": "steps [0, 1, 2]", "weights": "weights of", "metric": "metrics.jsonl"}.items():
        (found,) = differences(tmp_path, "whole", name, processes=1)
        assert part in found
    (tmp_path / "empty.rank-0.log").touch()
    assert read_trace(tmp_path / "empty.rank-0.log").steps == {}


@pytest.mark.slow
def test_a_process_ends_at_its_point(tmp_path: Path) -> None:
    """In a process of its own: half of a write is on disk, and nothing after it happened."""
    script = (
        "import sys, torch; from pathlib import Path; from tests.soak.faults import Point, install; folder = Path(sys.argv[1]); "
        "install(folder / 'log', folder / 'run', Point('file', int(sys.argv[2]), sys.argv[3])); (folder / 'run').mkdir(exist_ok=True); "
        "from stpipe.engine.checkpoint import save_checkpoint; "
        "save_checkpoint(folder / 'run', step=1, tensors={'module': {'w': torch.ones(1000)}}, state={})"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), "0", "half"], cwd=ROOT, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    files = sorted(p.name for p in (tmp_path / "run" / ".writing-step-00000001").iterdir())
    assert files == ["module.pt"] and 1000 < (tmp_path / "run" / ".writing-step-00000001" / "module.pt").stat().st_size < 4000
    (operation,) = read_trace(tmp_path / "log").files.values()
    assert operation == ("write", ".writing-step-00000001/module.pt")
    assert Point("file").as_dict()["when"] == "before"
