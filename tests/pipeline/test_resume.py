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
from stpipe.engine.loop import Trainer
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
