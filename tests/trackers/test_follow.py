"""Following a run in this process: everything arrives once, in order, whatever fails on the way."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from stpipe.trackers import Memory, TrackedRun, follow
from stpipe.trackers.base import Ending, is_running, kept_files
from stpipe.trackers.follow import Follower
from tests.trackers.broken import BrokenTracker, read, series
from tests.trackers.run_folder import CONFIG, LINES, SERIES, line, make_run, write_lines, write_status

OVER = threading.Event()
OVER.set()


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(follow, "POLL", 0.01)
    monkeypatch.setattr(follow, "RETRY", (0.01, 0.02))


def send(folder: Path, tracker: BrokenTracker, over: threading.Event = OVER) -> tuple[bool, Memory, list[str]]:
    memory, log = Memory.load(Memory.place(folder, "t")), []
    done = Follower(tracker, TrackedRun(folder, CONFIG), memory, over, secrets=["swordfish"], log=log.append).follow()
    return done, Memory.load(memory.path), log


def test_everything_arrives_once_and_the_ending_is_that_of_the_status(tmp_path):
    folder = make_run(tmp_path / "out", state="partial", exit_code=5)
    done, memory, log = send(folder, BrokenTracker(file=str(tmp_path / "got")))
    assert done and not log
    assert series(tmp_path / "got") == SERIES
    found = read(tmp_path / "got")
    assert found[0] == {"connect": memory.id, "name": "a-run", "sweep": None}
    assert found[-1] == {"ending": "partial", "exit_code": 5}
    files = [(e["file"], e["model"]) for e in found if "file" in e]
    assert ("model/config.json", True) in files and ("report.html", False) in files and ("metrics.jsonl", False) in files
    assert (memory.state, memory.ended, memory.error) == ("finished", "partial", None)


def test_sending_again_sends_nothing_again(tmp_path):
    folder = make_run(tmp_path / "out")
    tracker = BrokenTracker(file=str(tmp_path / "got"))
    _, first, _ = send(folder, tracker)
    count = len(read(tmp_path / "got"))
    _, second, _ = send(folder, tracker)
    assert [e for e in read(tmp_path / "got")[count:] if "connect" not in e] == [{"ending": "finished", "exit_code": 0}]
    assert second.id == first.id


def test_a_continued_run_goes_on_under_its_id_and_repeats_no_step(tmp_path):
    folder = make_run(tmp_path / "out", state="running", exit_code=None, lines=LINES[:6])  # up to loss of step 3
    tracker = BrokenTracker(file=str(tmp_path / "got"))
    _, first, _ = send(folder, tracker)
    assert read(tmp_path / "got")[-1] == {"ending": "killed", "exit_code": None}
    write_lines(folder, LINES[:3], mode="w")  # from the checkpoint of step 1 on
    write_lines(folder, LINES[3:])
    write_status(folder, "finished", 0)
    _, second, _ = send(folder, tracker)
    assert second.id == first.id
    assert series(tmp_path / "got") == SERIES


@pytest.mark.parametrize("where", ["connect", "log", "upload", "finish"])
def test_a_call_that_fails_twice_costs_nothing(tmp_path, where):
    folder = make_run(tmp_path / "out")
    done, memory, log = send(folder, BrokenTracker(file=str(tmp_path / "got"), where=where, until=2, api_key="swordfish"))
    assert done and memory.state == "finished" and memory.error is None
    assert len(log) == 2
    assert series(tmp_path / "got") == SERIES
    assert len([e for e in read(tmp_path / "got") if "ending" in e]) == 1


@pytest.mark.parametrize("where", ["connect", "log", "upload", "finish"])
def test_a_call_that_always_fails_is_given_up_and_made_up_for_later(tmp_path, where):
    folder = make_run(tmp_path / "out")
    done, memory, log = send(folder, BrokenTracker(file=str(tmp_path / "got"), where=where, api_key="swordfish"))
    assert not done
    assert memory.state == "behind" and memory.error.startswith("ConnectionError: no answer from http://<redacted>@host to <redacted>")
    assert len(log) == follow.LAST_ATTEMPTS and "reach" in log[0]
    assert not any(secret in text for text in (*log, memory.path.read_text()) for secret in ("swordfish", "hunter2"))
    done, memory, _ = send(folder, BrokenTracker(file=str(tmp_path / "got")))
    assert done and memory.state == "finished" and memory.error is None
    assert series(tmp_path / "got") == SERIES


def test_values_arrive_while_the_run_goes_on(tmp_path):
    folder = make_run(tmp_path / "out", state="running", exit_code=None, lines=[])
    over, got = threading.Event(), tmp_path / "got"
    thread = threading.Thread(target=send, args=(folder, BrokenTracker(file=str(got)), over))
    thread.start()
    for step in (1, 2, 3):
        write_lines(folder, [line(step, "loss", step / 8)])
        wait_until(lambda step=step: series(got).get("train/loss", [])[-1:] == [(step, step / 8)])
    assert not [e for e in read(got) if "ending" in e]
    write_lines(folder, [line(4, "loss", 0.5)])
    write_status(folder, "interrupted", 130)
    over.set()
    thread.join(10)
    assert not thread.is_alive()
    assert series(got)["train/loss"] == [(step, step / 8) for step in (1, 2, 3, 4)]
    assert read(got)[-1] == {"ending": "interrupted", "exit_code": 130}


def wait_until(true) -> None:
    for _ in range(1000):
        if true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("waited for ten seconds")


def test_a_tracker_that_does_not_take_anything_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "AHEAD", 20)
    monkeypatch.setattr("stpipe.trackers.records.CHUNK", 1000)
    folder = make_run(tmp_path / "out", lines=[line(step, "loss", 0.5) for step in range(500)])
    follower = Follower(
        BrokenTracker(file=str(tmp_path / "got"), where="log"), TrackedRun(folder, CONFIG), Memory(tmp_path / "m.json"), OVER
    )
    assert not follower.follow()
    assert 0 < len(follower.waiting) < 40
    follower = Follower(BrokenTracker(file=str(tmp_path / "got")), TrackedRun(folder, CONFIG), Memory(tmp_path / "m.json"), OVER)
    assert follower.follow()
    assert [step for step, _ in series(tmp_path / "got")["train/loss"]] == list(range(500))


def test_reports_and_texts_are_kept_only_where_asked(tmp_path):
    folder = make_run(tmp_path / "out")
    assert kept_files(folder, "none") == {}
    records = set(kept_files(folder, "records"))
    assert records == {"config.yaml", "status.json", "metrics.jsonl", "evaluation/dev/metrics.json"}
    assert set(kept_files(folder, "reports")) == records | {"report.html", "evaluation/dev/per_query.jsonl"}


def test_a_status_that_still_says_running_means_killed(tmp_path):
    folder = make_run(tmp_path / "out", state="running", exit_code=None)
    assert Ending.of(folder) == Ending("killed")
    write_status(folder, "failed", 1, "train: boom")
    assert Ending.of(folder) == Ending("failed", 1, "train: boom")
    assert not Ending.of(folder).good and not Ending.of(folder).stopped
    assert Ending("preempted").stopped
    (folder / "status.json").write_text("{")
    assert Ending.of(folder) == Ending("killed")


def test_whether_a_run_goes_on(tmp_path):
    import os

    folder = make_run(tmp_path / "out")
    assert not is_running(folder, besides=0)
    write_status(folder, "running", None, pid=os.getpid())
    assert is_running(folder, besides=0)
    assert not is_running(folder, besides=os.getpid())
    write_status(folder, "running", None, pid=2**22 + 1)  # beyond the largest number of a process
    assert not is_running(folder, besides=0)


def test_a_broken_memory_is_a_new_one(tmp_path):
    path = tmp_path / "trackers" / "t.json"
    assert Memory.load(path).id is None
    memory = Memory(path, id="abc", sent={"train/loss": 3})
    memory.save()
    assert Memory.load(path) == memory
    assert [p.name for p in path.parent.iterdir()] == ["t.json"]
    for text in ("", "{", json.dumps({"unknown": 1})):
        path.write_text(text)
        assert Memory.load(path).id is None
