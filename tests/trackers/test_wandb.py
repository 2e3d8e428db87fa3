"""Weights & Biases without a network: what it writes offline, and a server that never answers."""

from __future__ import annotations

import socket
import time

import pytest

from stpipe.config.sweep import Sweep
from stpipe.trackers import Followers, Memory
from tests.trackers.run_folder import CONFIG, SERIES, line, make_run, write_lines, write_status
from tests.trackers.wandb_files import read

pytest.importorskip("wandb", reason="needs the extra wandb")
CANARY = "c4n4ry" * 7  # a key of W&B is forty characters or more


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_RUN_GROUP", "WANDB_DIR", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def follow(folder, *, offline=True, sweep=None, timeout=120.0, **options):
    values = {"name": "wandb", "timeout": timeout, "project": None, "entity": None, "mode": None, "group": None, "artifacts": "records"}
    return Followers(folder, {"wb": {**values, **options}}, config=CONFIG, offline=offline, sweep=sweep)


def files(folder):
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.slow
def test_offline_files_hold_the_run_and_a_continued_run_is_the_same_one(tmp_path):
    sweep = Sweep.of(["optimizer.lr=1,2"])
    folder = make_run(tmp_path / "out", state="running", exit_code=None)
    assert follow(folder, sweep=sweep, artifacts="model").close() == {"wb": "finished"}
    found = read(files(folder)[0])
    memory = Memory.load(Memory.place(folder, "wb"))
    assert found.run == {"id": memory.id, "project": "stpipe", "group": sweep.name, "name": "a-run", "tags": ["first", "second"]}
    assert found.config["optimizer"] == {"name": "adamw", "lr": 2e-05}
    assert {key: found.series(key) for key in SERIES} == SERIES
    assert [row["epoch"] for row in found.history if "train/loss" in row] == [0.25, 0.5, 0.75, 1.0]
    assert found.summary["stpipe/state"] == "killed" and found.exit_code == 1
    assert found.artifacts["a-run-run-files"] >= {"config.yaml", "metrics.jsonl", "report.html"}
    assert found.artifacts["a-run-model"] == {"config.json", "config_sentence_transformers.json"}
    write_lines(folder, [line(5, "loss", 0.125)])
    write_status(folder, "finished", 0)
    assert follow(folder).close() == {"wb": "finished"}
    first, second = files(folder)
    assert first != second
    again = read(second)
    assert (again.run["id"], again.run["group"]) == (memory.id, sweep.name)
    assert again.series("train/loss") == [(5, 0.125)]
    assert again.summary["stpipe/state"] == "finished" and again.exit_code == 0
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 20 and not any(CANARY.encode() in path.read_bytes() for path in written)
    assert not (tmp_path / "home").exists() or not [p for p in (tmp_path / "home").rglob("*") if p.is_file()]


@pytest.mark.slow
def test_a_server_that_never_answers_is_left_behind_in_time(tmp_path, monkeypatch):
    """The library itself would keep the process for half a minute after it gave up."""
    folder = make_run(tmp_path / "out")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        following = follow(folder, offline=False, timeout=6.0)
        time.sleep(3)
        told: list[str] = []
        began = time.monotonic()
        assert following.close(told.append) == {"wb": "behind"}
        assert time.monotonic() - began < 30
    assert "no progress in 6 s" in told[0]
    assert CANARY not in "".join(p.read_text(errors="replace") for p in folder.rglob("*") if p.is_file())
    assert follow(folder).close() == {"wb": "finished"}
    found = read(files(folder)[0])
    assert found.run["id"] == Memory.load(Memory.place(folder, "wb")).id
    assert {key: found.series(key) for key in SERIES} == SERIES
