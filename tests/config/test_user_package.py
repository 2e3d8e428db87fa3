"""A user's own components, from a package outside the repository, chosen by name through `imports`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PACKAGE = '''
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stpipe.config.fields import option
from stpipe.config.metrics import metric, metric_facts
from stpipe.config.registry import CALLBACKS, EVALUATORS, LOSSES, SAMPLERS
from stpipe.evaluation.base import Evaluator
from stpipe.losses.base import Loss


@LOSSES.register("my_loss", aliases=("MyLoss",))
@dataclass(frozen=True)
class MyLoss(Loss):
    """Mine."""

    coupling: ClassVar[str] = "row"
    formats: ClassVar[tuple[str, ...]] = ("pair",)

    slope: float = option(1.0, gt=0, help="Slope.")

    def __call__(self, batch, ctx):
        raise NotImplementedError


@SAMPLERS.register("my_sampler")
@dataclass(frozen=True)
class MySampler:
    """Mine."""

    mixing: str = option("proportional", help="Mixing.")


@EVALUATORS.register("my_evaluator")
@dataclass(frozen=True, kw_only=True)
class MyEvaluator(Evaluator):
    """Mine."""

    formats: ClassVar[tuple[str, ...]] = ("pair",)
    metrics: ClassVar[dict] = metric_facts(metric("mine_{similarity}"))

    def __call__(self, model, rows, *, batch_size):
        raise NotImplementedError


@CALLBACKS.register("my_callback")
@dataclass(frozen=True)
class MyCallback:
    """Mine."""

    every: int = option(3, ge=1, help="Steps.")
'''
RECIPE = """\
# @package _global_
# Everything my own.
imports: [my_parts.all]
defaults:
  - override /model: minilm
  - override /dataset: docstrings
  - override /loss: my_loss
  - override /sampler: my_sampler
  - override /evaluator: my_evaluator
  - _self_
loss: {slope: 2}
callbacks: {mine: {name: my_callback, every: 5}}
trainer: {best_metric: dev_mine_cosine, eval_steps: 0.5}
"""
OVERRIDES = [
    "imports=[my_parts.all]",
    "model=minilm",
    "dataset=docstrings",
    "loss=my_loss",
    "sampler=my_sampler",
    "evaluator=my_evaluator",
    "callbacks={mine: {name: my_callback}}",
]


@pytest.fixture
def project(tmp_path):
    package = tmp_path / "my_parts"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "all.py").write_text(PACKAGE)
    (tmp_path / "conf" / "recipe").mkdir(parents=True)
    (tmp_path / "conf" / "recipe" / "mine.yaml").write_text(RECIPE)
    return tmp_path


def validate(project, *arguments):
    """The command in the folder that holds the package: it need not be installed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run(
        [sys.executable, "-m", "stpipe", "validate", *arguments], cwd=project, env=environment, capture_output=True, text=True, timeout=300
    )


def test_own_loss_sampler_evaluator_and_callback(project):
    done = validate(project, "+recipe=mine", "--config-dir", "conf", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    config = found["config"]
    assert config["loss"] == {"name": "my_loss", "slope": 2.0}
    assert config["sampler"]["name"] == "my_sampler"
    assert config["callbacks"] == {"mine": {"name": "my_callback", "every": 5}}
    assert found["metrics"] == ["dev_mine_cosine"]


def test_own_components_are_checked_like_all(project):
    done = validate(project, *OVERRIDES, "loss.slop=1", "callbacks.mine.every=0", "trainer.best_metric=dev_mine_dot")
    assert done.returncode == 2
    assert "loss.slop: unknown key of loss 'my_loss'. Did you mean 'slope'?" in done.stderr
    assert "callbacks.mine.every: expected an integer >= 1" in done.stderr


def test_unknown_module(project):
    done = validate(project, *OVERRIDES[1:3], "imports=[my_part.all]")
    assert done.returncode == 2
    assert "imports[0]: module 'my_part.all' cannot be found" in done.stderr
