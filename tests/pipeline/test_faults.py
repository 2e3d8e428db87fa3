"""Faults and what is said of them: exit code, status.json and tracker agree, as the table in docs/runs.md has it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from stpipe.cli.main import main
from stpipe.engine.callbacks.metrics_log import MetricsLog
from stpipe.engine.checkpoint import damage, list_checkpoints
from stpipe.engine.loop import Trainer
from stpipe.models.sentence_transformer import SentenceTransformer
from stpipe.trackers import Ending
from stpipe.trackers.mlflow import status as mlflow_status
from tests.pipeline.conftest import QUICK, Command
from tests.pipeline.faulty import ON_SMALL_DISK, can_mount
from tests.trackers.broken import read

SHARED = ("trainer.max_steps=4", "trainer.save_steps=2", "trainer.log_steps=1", "+evaluator.dev.name=information_retrieval")
OWN = ("imports=[tests.trackers.broken]", "tracker.own.name=broken", "tracker.own.file=got")


@dataclass(frozen=True)
class Row:
    """A line of the table in docs/runs.md."""

    exit_code: int
    state: str
    mlflow: str


def table() -> dict[str, Row]:
    """Fault -> what the documentation says of it."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "runs.md").read_text()
    rows = re.findall(r"^\| `([a-z ]+)`[^|]*\| (\d+) \| `(\w+)` \| `(\w+)` \|", text, re.M)
    return {name: Row(int(code), state, mlflow) for name, code, state, mlflow in rows}


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    original = MetricsLog.on_step_end

    def hook(self: MetricsLog, trainer: Trainer) -> None:
        original(self, trainer)
        if trainer.state.step == step:
            act()

    monkeypatch.setattr(MetricsLog, "on_step_end", hook)


def not_a_number(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    return ("optimizer.lr=1e30", "trainer.max_grad_norm=null", "trainer.max_steps=20", "scheduler.warmup=0")


def checkpoints_in_the_way(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Nothing can be written below it, for root neither: a file stands in the place of the folder."""
    at_step(monkeypatch, 1, lambda: Path("out/checkpoints").write_text("in the way") and None)
    return ()


def evaluation_in_the_way(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    at_step(monkeypatch, 4, lambda: Path("out/evaluation").write_text("in the way") and None)
    return ()


def template(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    Path("card.md.j2").write_text("{% for e in evaluations %}{{ 1 // 0 }}{% endfor %}")
    return ("card.template=card.md.j2",)


def no_network(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_tokenofthetest")
    return ("offline=false", "publish.repo_id=me/tiny")


def sent(name: str) -> Callable[[pytest.MonkeyPatch], tuple[str, ...]]:
    def arrange(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
        at_step(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.Signals[name]))
        return ()

    return arrange


@dataclass(frozen=True)
class Fault:
    """arrange: prepares it, and gives overrides; words: of the message; repair: before the run is finished by the command it named."""

    arrange: Callable[[pytest.MonkeyPatch], tuple[str, ...]]
    words: tuple[str, ...]
    repair: Callable[[], None] | None = None


FAULTS = {
    "loss is not a number": Fault(not_a_number, ("optimizer.lr",)),
    "checkpoints cannot be written": Fault(
        checkpoints_in_the_way, ("could not write checkpoint",), lambda: Path("out/checkpoints").unlink()
    ),
    "results cannot be written": Fault(evaluation_in_the_way, ("stage 'evaluate' failed",), lambda: Path("out/evaluation").unlink()),
    "card template raises": Fault(
        template, ("stage 'card' failed",), lambda: Path("card.md.j2").write_text("---\n{{ front_matter }}\n---\nfine") and None
    ),
    "hub cannot be reached": Fault(no_network, ("stage 'publish' failed", "stpipe publish out")),
    "asked to leave": Fault(sent("SIGTERM"), ("stpipe train --from out trainer.resume=auto",), lambda: None),
    "interrupted": Fault(sent("SIGINT"), (), lambda: None),
}


@pytest.fixture(autouse=True)
def _environment(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(repository), os.environ.get("PYTHONPATH", "")])))


def test_the_table_has_every_fault() -> None:
    assert table().keys() == {*FAULTS, "disk is full in training", "disk is full after training"}
    assert {row.state for row in table().values()} == {"failed", "partial", "preempted", "interrupted"}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(FAULTS))
def test_everything_that_tells_of_a_fault_agrees(
    name: str, stpipe: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fault, row = FAULTS[name], table()[name]
    with monkeypatch.context() as patch:
        overrides = fault.arrange(patch)
        given = {o.split("=")[0] for o in overrides}
        code = stpipe("train", "run.dir=out", *(o for o in (*SHARED, *OWN) if o.split("=")[0] not in given), *overrides)
    message = capsys.readouterr().err
    assert code == row.exit_code, message
    status = json.loads(Path("out/status.json").read_text())
    assert (status["state"], status["exit_code"]) == (row.state, row.exit_code)
    assert all(word in message for word in fault.words), message
    assert "Traceback" not in message
    told = read(Path("got"))[-1]
    assert told == {"ending": row.state, "exit_code": row.exit_code}, "the tracker was told the same"
    assert mlflow_status(Ending(row.state, row.exit_code)) == row.mlflow
    report = json.loads(Path("out/report.json").read_text())["run"]
    assert (report["state"], report["exit_code"]) == (row.state, row.exit_code)
    saved = status["stages"].get("save", {}).get("state") == "finished"
    assert saved is (row.state == "partial")
    if saved:
        assert SentenceTransformer("out/model").encode(["w1"]).shape == (1, 32)
    assert all(damage(checkpoint) is None for checkpoint in list_checkpoints(Path("out/checkpoints")))
    if fault.repair is not None:
        fault.repair()
        assert main(["train", "--from", "out", "trainer.resume=auto"]) == 0
        assert json.loads(Path("out/status.json").read_text())["state"] == "finished"
        assert read(Path("got"))[-1] == {"ending": "finished", "exit_code": 0}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_cache_that_vanishes_changes_nothing(workers: int, stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run reads is open before its first step; the next run makes the cache anew."""
    given = (*SHARED, f"trainer.num_workers={workers}", "dataset.cache_dir=own-cache")
    assert stpipe("train", "run.dir=whole", *given) == 0
    with monkeypatch.context() as patch:
        at_step(patch, 1, lambda: shutil.rmtree("own-cache"))
        assert stpipe("train", "run.dir=out", *given, "trainer.evaluate_before=false") == 0
    assert not Path("own-cache").exists() and json.loads(Path("out/status.json").read_text())["state"] == "finished"
    one, other = (Path(run, "model", "model.safetensors").read_bytes() for run in ("whole", "out"))
    assert one == other
    assert stpipe("train", "run.dir=again", *given) == 0 and list(Path("own-cache").iterdir())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("where", "name"), [("step-3", "disk is full in training"), ("evaluation", "disk is full after training")])
def test_a_full_disk(where: str, name: str, tmp_path: Path, tiny_model: Path, pairs: Path) -> None:
    """A file system of 24 MB that really is full. The run says how it ended all the same, and goes on when there is room."""
    if not can_mount():
        pytest.skip("needs the right to mount a file system of its own (root, or user name spaces)")
    (tmp_path / "disk").mkdir()
    given = [*QUICK, f"model.name_or_path={tiny_model}", "model=dense", f"dataset.train={pairs}", *SHARED, "run.dir=disk/run"]
    command = ["unshare", "-m", "sh", "-c", ON_SMALL_DISK, sys.executable, where, "train", *given]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=600, check=False)
    codes = [int(code) for code in re.findall(r"^code (\d+)$", done.stdout, re.M)]
    row = table()[name]
    assert codes == [row.exit_code, 0], done.stderr[-3000:]
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    failed = json.loads((tmp_path / "failed" / "status.json").read_text())
    assert (failed["state"], failed["exit_code"]) == (row.state, row.exit_code)
    assert "No space left on device" in failed["error"]
    assert mlflow_status(Ending.of(tmp_path / "failed")) == row.mlflow
    kept = list_checkpoints(tmp_path / "failed" / "checkpoints")
    assert [c.step for c in kept] == ([2] if where == "step-3" else [2, 4]) and all(damage(c) is None for c in kept)
    assert (tmp_path / "failed" / "model").exists() is (row.state == "partial")
    if row.state == "partial":
        assert SentenceTransformer(str(tmp_path / "failed" / "model")).encode(["w1"]).shape == (1, 32)
    assert json.loads((tmp_path / "done" / "status.json").read_text())["state"] == "finished"
    assert not [p for p in (tmp_path / "done").rglob("*") if p.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["connect", "log", "upload", "finish"])
@pytest.mark.parametrize("how", ["raise", "hang"])
def test_a_tracker_that_fails_at_any_call_fails_nothing(where: str, how: str, stpipe: Command) -> None:
    failing = (*OWN, f"tracker.own.where={where}", f"tracker.own.how={how}", "tracker.own.timeout=4")
    assert stpipe("train", "run.dir=out", *SHARED, *failing) == 0
    status = json.loads(Path("out/status.json").read_text())
    assert (status["state"], status["exit_code"], status["trackers"]) == ("finished", 0, {"own": "behind"})
    assert [w for w in status["warnings"] if "stpipe track out" in w]
    assert Path("out/report.html").exists() and Path("out/model/README.md").exists()


UNUSABLE = {
    "system": ("run.dir=/proc/stpipe/run", "run.dir"),
    "file": ("run.dir=blocker/run", "run.dir"),
    "cache": ("dataset.cache_dir=/proc/stpipe/cache", "dataset.cache_dir"),
}


@pytest.mark.parametrize("case", list(UNUSABLE))
@pytest.mark.parametrize("flags", [(), ("--dry-run",)], ids=["run", "dry run"])
def test_a_place_that_cannot_be_written_is_refused(
    case: str, flags: tuple[str, ...], stpipe: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also by root, and by a dry run, which does not try to write."""
    override, key = UNUSABLE[case]
    Path("blocker").write_text("a file")
    found = sorted(Path().rglob("*"))
    assert stpipe("train", override, *(() if case != "cache" else ("run.dir=out",)), *SHARED, *flags) == 2
    message = capsys.readouterr().err
    assert key in message and "cannot be written" in message and "Traceback" not in message
    assert sorted(Path().rglob("*")) == found
