"""A user's own loss, sampler, evaluator and callback, from a package outside of stpipe, in a real run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pipeline.conftest import Command

PACKAGE = '''
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from stpipe.config.fields import option
from stpipe.config.metrics import metric, metric_facts
from stpipe.config.registry import CALLBACKS, EVALUATORS, LOSSES, SAMPLERS
from stpipe.core.result import LossOutput
from stpipe.engine.callbacks import Callback
from stpipe.evaluation.base import Evaluation, Evaluator
from stpipe.losses.base import Loss


@LOSSES.register("pull")
@dataclass(frozen=True)
class Pull(Loss):
    """Pulls positives to their anchors."""

    coupling: ClassVar[str] = "row"
    formats: ClassVar[tuple[str, ...]] = ("pair",)
    power: float = option(2.0, gt=0, help="Exponent of the distance.")

    def __call__(self, batch, ctx):
        distance = (batch.local("anchor") - batch.local("positive")).norm(dim=1)
        return LossOutput.per_row(distance**self.power)


@SAMPLERS.register("in_order")
@dataclass(frozen=True)
class InOrder:
    """Rows as they come."""

    needs_label: ClassVar[bool] = False
    mixing: str = option("proportional", help="Turns of several data sets.")

    def batches(self, source, *, batch_size, seed, epoch, drop_last=False):
        order = np.arange(len(source))
        return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


@EVALUATORS.register("spread")
@dataclass(frozen=True, kw_only=True)
class Spread(Evaluator):
    """Mean similarity of neighbouring anchors."""

    formats: ClassVar[tuple[str, ...]] = ("pair",)
    metrics: ClassVar[dict] = metric_facts(metric("spread", better="lower"))

    def __call__(self, model, rows, *, batch_size):
        self.check(rows)
        vectors = model.encode(list(rows.columns["anchor"]), batch_size=batch_size)
        return Evaluation({"spread": float((vectors[1:] * vectors[:-1]).sum(1).mean())}, "spread", num_rows=len(rows))


@CALLBACKS.register("stop_at")
@dataclass
class StopAt(Callback):
    """Ends training after a number of steps."""

    steps: int = option(3, ge=1, help="Steps.")

    def on_step_end(self, trainer):
        if trainer.state.step == self.steps:
            trainer.stop(f"callback stop_at asked for {self.steps} steps")
'''


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_parts.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_parts"


def test_own_parts_run(stpipe: Command, own_package: str) -> None:
    code = stpipe(
        "train", "run.dir=out", f"imports=[{own_package}]", "+loss.name=pull", "+loss.power=1.5", "+sampler.name=in_order",
        "+callbacks.stop.name=stop_at", "+callbacks.stop.steps=3", "+evaluator.even.name=spread",
        "trainer.best_metric=even_spread", "trainer.eval_steps=2", "trainer.max_steps=6", "trainer.log_steps=1",
    )  # fmt: skip
    assert code == 0
    status = json.loads(Path("out/status.json").read_text())
    assert (status["state"], status["step"]) == ("finished", 3)
    values = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    assert {r["step"] for r in values if r["name"] == "even_spread"} == {0, 2, 3}
    plan = json.loads(Path("out/plan.json").read_text())
    assert plan["sources"]["default"]["loss"] == "Pull"


def test_own_parts_are_checked_like_ours(stpipe: Command, own_package: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert stpipe("validate", f"imports=[{own_package}]", "+loss.name=pull", "+loss.powr=1.5") == 2
    message = capsys.readouterr().err
    assert "loss.powr" in message and "power" in message
