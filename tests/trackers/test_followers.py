"""The processes of trackers: none of them can fail, or for long delay, the run that started them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from stpipe.config.sweep import Sweep
from stpipe.trackers import Followers, Memory, followers
from tests.trackers.broken import read, series
from tests.trackers.run_folder import CONFIG, SERIES, line, make_run, write_lines, write_status

IMPORTS = ["tests.trackers.broken"]
#: What goes wrong where; each takes seconds, so that one of a kind is enough for the quick tests.
CALLS = [
    ("connect", "hang"),
    pytest.param("finish", "hang", marks=pytest.mark.slow),
    pytest.param("log", "die", marks=pytest.mark.slow),
    pytest.param("log", "raise", marks=pytest.mark.slow),
]


@pytest.fixture(autouse=True)
def _here(repository, monkeypatch):
    monkeypatch.chdir(repository)  # where the processes find the tests' own tracker


def start(folder, got, *, sweep=None, timeout=20.0, name="t", **options):
    values = {"name": "broken", "timeout": timeout, "file": str(got), "where": "nowhere", "how": "raise", "until": 10**9, "api_key": ""}
    return Followers(folder, {name: {**values, **options}}, config=CONFIG, imports=IMPORTS, sweep=sweep, owner=os.getpid())


def test_a_run_is_followed_to_its_end(tmp_path):
    folder = make_run(tmp_path / "out", state="running", exit_code=None)
    following = start(folder, tmp_path / "got", sweep=Sweep.of(["a=1,2"]))
    write_lines(folder, [line(5, "loss", 0.125)])
    write_status(folder, "failed", 1)
    told: list[str] = []
    assert following.close(told.append) == {"t": "finished"}
    assert not told and following.news() == []
    assert series(tmp_path / "got") == {**SERIES, "train/loss": [*SERIES["train/loss"], (5, 0.125)]}
    found = read(tmp_path / "got")
    assert found[0]["sweep"] == Sweep.of(["a=1,2"]).name
    assert found[-1] == {"ending": "failed", "exit_code": 1}
    # Later, outside of the sweep, the run still belongs to it.
    assert start(folder, tmp_path / "later").close() == {"t": "finished"}
    assert read(tmp_path / "later")[0]["sweep"] == found[0]["sweep"]


@pytest.mark.parametrize(("where", "how"), CALLS)
def test_one_that_hangs_dies_or_fails_is_left_behind(tmp_path, where, how, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "canary-of-the-environment")
    folder = make_run(tmp_path / "out")
    following = start(
        folder, tmp_path / "got", where=where, how=how, timeout=5.0 if how == "hang" else 60.0, api_key="canary-of-the-environment"
    )
    told: list[str] = []
    began = time.monotonic()
    assert following.close(told.append) == {"t": "behind"}
    assert time.monotonic() - began < 60
    reason = {"hang": "no progress in 5 s", "die": "ended with code 41", "raise": "ConnectionError: no answer"}[how]
    assert len(told) == 1 and reason in told[0] and f"stpipe track {folder}" in told[0]
    memory = Memory.load(Memory.place(folder, "t"))
    assert memory.state == "behind" and reason in memory.error
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 5 and not any(b"canary" in path.read_bytes() or b"hunter2" in path.read_bytes() for path in written)
    assert start(folder, tmp_path / "got").close() == {"t": "finished"}
    assert series(tmp_path / "got") == SERIES


def test_one_that_cannot_be_made_says_so_once(tmp_path):
    folder = make_run(tmp_path / "out")
    values = {"name": "no_such_tracker", "timeout": 5.0}
    following = Followers(folder, {"t": values}, config=CONFIG)
    deadline = time.monotonic() + 60
    while not (news := following.news()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(news) == 1 and "unknown tracker 'no_such_tracker'" in news[0]
    assert following.news() == []
    assert following.close() == {"t": "behind"}


def test_a_process_that_cannot_be_started_fails_nothing(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "out")
    monkeypatch.setattr(followers.sys, "executable", str(tmp_path / "no-python"))
    following = start(folder, tmp_path / "got")
    told: list[str] = []
    assert len(following.news()) == 1
    assert following.close(told.append) == {"t": "behind"}
    assert len(told) == 1 and "FileNotFoundError" in told[0]


@pytest.mark.slow
def test_a_second_process_leaves_the_first_alone(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "out", state="running", exit_code=None)
    first = start(folder, tmp_path / "got")
    wait_for(lambda: read(tmp_path / "got"))
    told: list[str] = []
    assert start(folder, tmp_path / "second").close(told.append) == {"t": "behind"}
    assert "another process follows this run" in told[0]
    assert not (tmp_path / "second").exists()
    write_status(folder, "finished", 0)
    assert first.close() == {"t": "finished"}
    assert Memory.load(Memory.place(folder, "t")).state == "finished"


def wait_for(true, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_that_is_killed_is_killed_at_the_tracker(tmp_path):
    folder = make_run(tmp_path / "out", state="running", exit_code=None)
    code = f"""
import time
from pathlib import Path
from tests.trackers.test_followers import start
start(Path({str(folder)!r}), {str(tmp_path / "got")!r})
time.sleep(1000)
"""
    owner = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: series(tmp_path / "got") == SERIES)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    wait_for(lambda: Memory.load(Memory.place(folder, "t")).state == "finished")
    assert read(tmp_path / "got")[-1] == {"ending": "killed", "exit_code": None}
    assert json.loads((folder / "status.json").read_text())["state"] == "running"


def test_without_trackers_nothing_is_started(tmp_path):
    following = Followers(tmp_path, {})
    assert following.news() == [] and following.close() == {}
    assert list(tmp_path.iterdir()) == []
