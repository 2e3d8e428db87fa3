"""Real signals to runs: they leave with a complete checkpoint and the right code, and go on to the very same bits."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stpipe.cli.main import main
from stpipe.engine.callbacks.metrics_log import MetricsLog
from stpipe.engine.checkpoint import damage, list_checkpoints
from stpipe.engine.loop import Trainer
from stpipe.pipeline import later, stages
from tests.pipeline.conftest import Command

SHARED = ("trainer.max_steps=8", "trainer.save_steps=5", "trainer.log_steps=1", "trainer.num_epochs=3")
EVALUATED = ("+evaluator.dev.name=information_retrieval", "trainer.eval_steps=2", "trainer.best_metric=dev_cosine_mrr@10")


def status() -> dict:
    found: dict = json.loads(Path("cut/status.json").read_text())
    return found


def weights(run: str) -> bytes:
    return (Path(run) / "model" / "model.safetensors").read_bytes()


def records(run: str) -> list[tuple]:
    found = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return sorted((r["split"], r["step"], r["name"], r["value"]) for r in found if r["split"] != "train" or r["name"] in ("loss", "lr"))


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, name: str) -> None:
    """The signal comes in the step before its end is looked at."""
    original = MetricsLog.on_step_end

    def hook(self: MetricsLog, trainer: Trainer) -> None:
        original(self, trainer)
        if trainer.state.step == step:
            os.kill(os.getpid(), signal.Signals[name])

    monkeypatch.setattr(MetricsLog, "on_step_end", hook)


def once(work: Callable[..., Any], *, call: int = 1, name: str = "SIGTERM") -> Callable[..., Any]:
    """The same work, that gets a signal in one of its calls."""
    calls = []

    def hook(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.Signals[name])
        return work(*given, **named)

    return hook


def test_a_run_that_is_preempted_twice_ends_with_the_same_bits(
    stpipe: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a step that nothing is due after, in one that an evaluation is due after, and in an evaluation."""
    assert stpipe("train", "run.dir=whole", *SHARED, *EVALUATED) == 0
    for step, name in ((3, "SIGTERM"), (4, "SIGUSR1")):
        with monkeypatch.context() as patch:
            at_step(patch, step, name)
            assert stpipe("train", "run.dir=cut", *SHARED, *EVALUATED, "trainer.resume=auto") == 75
        message = capsys.readouterr().err
        assert f"asked to leave ({name}" in message and "stpipe train --from cut trainer.resume=auto" in message
        assert (status()["state"], status()["exit_code"], status()["step"]) == ("preempted", 75, step)
        assert status()["stages"]["train"]["state"] == "stopped"
        newest = list_checkpoints(Path("cut/checkpoints"))[-1]
        assert newest.step == step and damage(newest) is None
        assert newest.state()["trainer"]["evaluation_due"] is (step == 4)
    with monkeypatch.context() as patch:
        patch.setattr(stages, "evaluate", once(later.evaluate, call=2))  # the first call makes up for that of step 4
        assert main(["train", "--from", "cut", "trainer.resume=auto"]) == 75
    assert status()["step"] == 6 and list_checkpoints(Path("cut/checkpoints"))[-1].state()["trainer"]["evaluation_due"] is True
    assert main(["train", "--from", "cut", "trainer.resume=auto"]) == 0
    assert (status()["state"], status()["exit_code"]) == ("finished", 0)
    assert weights("cut") == weights("whole")
    assert records("cut") == records("whole") and {r[0] for r in records("cut")} == {"train", "eval", "final"}


@pytest.mark.parametrize("stage", ["evaluate_before", "card"])
def test_a_request_in_another_stage_is_heard_there(stage: str, stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    work = {"evaluate_before": "evaluate", "card": "write_card"}[stage]
    with monkeypatch.context() as patch:
        patch.setattr(later, work, once(getattr(later, work), name="SIGUSR1"))
        assert stpipe("train", "run.dir=cut", *SHARED, *EVALUATED) == 75
    assert (status()["state"], status()["stages"][stage]["state"]) == ("preempted", "stopped")
    assert Path("cut/model").exists() is (stage == "card")
    assert main(["train", "--from", "cut", "trainer.resume=auto"]) == 0
    assert status()["state"] == "finished"


def test_other_signals_can_be_named_and_none_of_them(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 2, "SIGUSR2")
        assert stpipe("train", "run.dir=cut", *SHARED, "trainer.preempt_signals=[SIGUSR2]") == 75
    assert status()["step"] == 2
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with monkeypatch.context() as patch:
            at_step(patch, 4, "SIGTERM")
            assert stpipe("train", "run.dir=other", *SHARED, "trainer.preempt_signals=[]") == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM], "what is not named goes where it went before"


def test_a_sweep_ends_with_its_preempted_job(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    at_step(monkeypatch, 2, "SIGTERM")
    assert stpipe("train", "run.dir=seed-${trainer.seed}", "trainer.seed=1,2", *SHARED, "-m") == 75
    assert json.loads(Path("seed-1/status.json").read_text())["state"] == "preempted"
    assert not Path("seed-2").exists(), "whoever is to leave begins nothing new"
