"""A run that was killed and continued ends with the very bits of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stpipe.engine.callbacks.metrics_log import MetricsLog
from stpipe.engine.checkpoint import list_checkpoints, save_checkpoint
from stpipe.engine.loop import Trainer
from stpipe.pipeline import resume
from tests.pipeline.conftest import QUICK, Command

SHARED = ("trainer.max_steps=12", "trainer.save_steps=2", "trainer.log_steps=1", "trainer.num_epochs=3")


def weights(run: str) -> bytes:
    return (Path(run) / "model" / "model.safetensors").read_bytes()


def losses(run: str) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], r["value"]) for r in rows if r["name"] == "loss"]


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Raise in the middle of the loop after this step, before its checkpoint."""
    original = MetricsLog.on_step_end

    def hook(self: MetricsLog, trainer: Trainer) -> None:
        original(self, trainer)
        if trainer.state.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(MetricsLog, "on_step_end", hook)


VARIANTS = {
    "plain": (),
    "accumulation": ("trainer.accumulation_steps=2",),
    "recompute and workers": ("strategy=recompute", "strategy.token_budget=64", "trainer.num_workers=2"),
    "ema and evaluation": ("trainer.ema_decay=0.9", "+evaluator.dev.name=information_retrieval", "trainer.eval_steps=3"),
}


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_two_interruptions_change_nothing(stpipe: Command, monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    extra = VARIANTS[variant]
    assert stpipe("train", "run.dir=whole", *SHARED, *extra) == 0
    for step in (5, 9):
        with monkeypatch.context() as patch:
            stop_after(patch, step)
            assert stpipe("train", "run.dir=cut", *SHARED, *extra, "trainer.resume=auto") == 130
        assert json.loads(Path("cut/status.json").read_text())["state"] == "interrupted"
    assert stpipe("train", "run.dir=cut", *SHARED, *extra, "trainer.resume=auto") == 0
    assert weights("cut") == weights("whole")
    assert losses("cut") == losses("whole") and len(losses("whole")) == 12
    assert [r["step"] for r in json.loads(Path("cut/status.json").read_text())["resumed"]] == [4, 8]


def test_best_model_and_patience_survive(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = (
        "+evaluator.dev.name=information_retrieval",
        "trainer.eval_steps=2",
        "trainer.best_metric=dev_cosine_mrr@10",
        "optimizer.lr=0.05",
    )
    assert stpipe("train", "run.dir=whole", *SHARED, *extra) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        assert stpipe("train", "run.dir=cut", *SHARED, *extra) == 130
    assert stpipe("train", "run.dir=cut", *SHARED, *extra, "trainer.resume=auto") == 0
    assert weights("cut") == weights("whole")


def test_a_damaged_checkpoint_is_passed_over(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stpipe("train", "run.dir=whole", *SHARED) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 9)
        assert stpipe("train", "run.dir=cut", *SHARED) == 130
    newest = sorted(Path("cut/checkpoints").glob("step-*"))[-1] / "module.pt"
    newest.write_bytes(newest.read_bytes()[:-7])
    assert stpipe("train", "run.dir=cut", *SHARED, "trainer.resume=auto") == 0
    assert weights("cut") == weights("whole")


def test_changed_data_is_refused(stpipe: Command, monkeypatch: pytest.MonkeyPatch, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert stpipe("train", "run.dir=cut", *SHARED) == 130
    status = Path("cut/status.json").read_text()
    pairs.write_text(pairs.read_text().replace("w1 ", "w2 ", 1))
    assert stpipe("train", "run.dir=cut", *SHARED, "trainer.resume=auto") == 2
    assert "fingerprint of data 'default'" in capsys.readouterr().err
    assert Path("cut/status.json").read_text() == status, "a refused command must not touch the run"


@pytest.mark.slow
def test_a_window_of_the_log_that_is_cut_says_the_same(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs every fourth step, checkpoints every second: a log is a mean over steps before and after the interruption."""
    log = tuple(o.replace("log_steps=1", "log_steps=4") for o in SHARED)
    assert stpipe("train", "run.dir=whole", *log) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        assert stpipe("train", "run.dir=cut", *log) == 130
    assert stpipe("train", "run.dir=cut", *log, "trainer.resume=auto") == 0
    assert losses("cut") == losses("whole") and [step for step, _ in losses("whole")] == [4, 8, 12]


def test_other_code_and_another_batch_are_refused_or_allowed_and_recorded(
    stpipe: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(resume, "versions", lambda: {"torch": "1.0"})
        stop_after(patch, 5)
        assert stpipe("train", "run.dir=cut", *SHARED) == 130
    status = Path("cut/status.json").read_text()
    again = ("run.dir=cut", *SHARED, "trainer.resume=auto")
    assert stpipe("train", *again) == 2
    assert "version of torch: '1.0' in the checkpoint" in (message := capsys.readouterr().err)
    assert "trainer.resume_allow=[versions]" in message
    assert stpipe("train", *again, "trainer.resume_allow=[versions]", "trainer.batch_size=4") == 2
    assert "trainer.batch_size: 8 in the run, 4 now (trainer.resume_allow=[batch_size])" in capsys.readouterr().err
    assert Path("cut/status.json").read_text() == status, "a refused command must not touch the run"
    assert stpipe("train", *again, "trainer.resume_allow=[versions,batch_size]", "trainer.batch_size=4") == 0, capsys.readouterr().err
    found = json.loads(Path("cut/status.json").read_text())
    (entry,) = found["resumed"]
    changed = {c["key"]: (c["old"], c["new"]) for c in entry["changed"]}
    assert entry["step"] == 4 and changed["trainer.batch_size"] == (8, 4) and changed["version of torch"][0] == "1.0"
    assert any("another trainer.batch_size: 8 before, 4 now" in warning for warning in found["warnings"])
    assert "trainer.batch_size from 8 to 4 at step 4" in Path("cut/model/README.md").read_text()
    assert stpipe("train", *again, "trainer.batch_size=4") == 0, "from now on this is the configuration of the run"


@pytest.mark.slow
def test_a_lost_best_model_is_not_replaced_by_another_without_a_word(
    stpipe: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    best = ("trainer.eval_steps=2", "trainer.best_metric=dev_cosine_mrr@10", "optimizer.lr=1e-12", "trainer.save_total_limit=1")
    options = ("run.dir=cut", *SHARED, "+evaluator.dev.name=information_retrieval", *best)
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        assert stpipe("train", *options) == 130
    first, newest = list_checkpoints(Path("cut/checkpoints"))
    assert (first.step, newest.step) == (2, 6) and newest.best == first, "the first evaluation stays the best, and is kept"
    broken = first.path / "module.pt"
    broken.write_bytes(broken.read_bytes()[:-9] + bytes(9))
    assert stpipe("train", *options, "trainer.resume=auto") == 2
    message = capsys.readouterr().err
    assert "step-00000006 is intact" in message and "step-00000002" in message and "trainer.resume_allow=[lost_best]" in message
    assert stpipe("train", *options, "trainer.resume=auto", "trainer.resume_allow=[lost_best]") == 0
    (entry,) = json.loads(Path("cut/status.json").read_text())["resumed"]
    assert entry["step"] == 6 and entry["changed"][0]["key"] == "best model so far"


@pytest.mark.slow
def test_the_checkpoint_of_another_directory_brings_the_best_model_along(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    best = ("trainer.eval_steps=2", "trainer.best_metric=dev_cosine_mrr@10", "optimizer.lr=1e-12")
    options = (*SHARED, "+evaluator.dev.name=information_retrieval", *best)
    assert stpipe("train", "run.dir=whole", *options) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        assert stpipe("train", "run.dir=first", *options) == 130
    newest = list_checkpoints(Path("first/checkpoints"))[-1].path.absolute()
    assert stpipe("train", "run.dir=second", *options, f"trainer.resume={newest}") == 0
    assert [c.step for c in list_checkpoints(Path("second/checkpoints"))] == [2, 12]
    assert weights("second") == weights("whole")
    assert json.loads(Path("second/status.json").read_text())["resumed"] == [{"step": 6}]


def test_step_one_million_starts_at_once(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same four steps at the start and at the end of a run of a million: none of the steps between is made again, or its batch looked at."""
    options = ("run.dir=long", "trainer.max_steps=1000000", "trainer.save_steps=2", "trainer.log_steps=1", "trainer.evaluate_before=false")
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert stpipe("train", *options) == 130
    begun = json.loads(Path("long/status.json").read_text())["stages"]["train"]["seconds"]
    (checkpoint,) = [c for c in list_checkpoints(Path("long/checkpoints")) if c.step == 4]
    state = checkpoint.state()
    state["trainer"]["step"] = 999_996
    tensors = {name: checkpoint.tensors(name) for name in ("module", "optimizer", "scaler")}
    save_checkpoint(Path("long/checkpoints"), step=999_996, tensors=tensors, state=state)
    assert stpipe("train", *options, "trainer.resume=auto") == 0
    status = json.loads(Path("long/status.json").read_text())
    assert status["step"] == 1_000_000 and [r["step"] for r in status["resumed"]] == [999_996]
    assert [step for step, _ in losses("long")][-4:] == [999_997, 999_998, 999_999, 1_000_000]
    assert status["stages"]["train"]["seconds"] < begun + 5.0


@pytest.mark.slow
def test_kill_9_in_the_middle(stpipe: Command, tiny_model: Path, pairs: Path) -> None:
    """The real command, killed without warning once it has saved, then continued."""
    model = (f"model.name_or_path={tiny_model}", "model=dense", f"dataset.train={pairs}", *QUICK)
    assert stpipe("train", "run.dir=whole", *SHARED) == 0
    command = [sys.executable, "-m", "stpipe", "train", *model, *SHARED, "trainer.resume=auto", "run.dir=cut"]
    process = subprocess.Popen(command, env=os.environ)
    deadline = time.monotonic() + 120
    while not list(Path("cut").glob("checkpoints/step-*/manifest.json")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() in (-signal.SIGKILL, 0)
    assert subprocess.run(command, env=os.environ, check=False).returncode == 0
    assert weights("cut") == weights("whole")
