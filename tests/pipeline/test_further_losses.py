"""Losses that learn something themselves, derive something from the data or the model, or need damaged texts, in whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import Command, word

SHORT = ("run.dir=out", "trainer.max_steps=3", "trainer.log_steps=1", "evaluator={}")


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"dataset.train={path}"


def text(i: int, length: int = 6) -> str:
    return " ".join(word(i * 3 + k) for k in range(length))


def values(name: str) -> list[float]:
    records = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    return [r["value"] for r in records if r["name"] == name]


@pytest.mark.parametrize(
    "loss",
    [
        ("loss=global_orthogonal_regularization",),
        ("loss=mega_batch_margin",),
        ("loss=mnrl", "loss.learn_scale=true"),
        ("loss=adaptive_layer", "+loss.loss.name=mnrl"),
        ("loss=matryoshka_2d", "loss.dims=[32,16]", "+loss.loss.name=mnrl"),
    ],
    ids=lambda options: options[0].removeprefix("loss="),
)
def test_losses_of_pairs(stpipe: Command, loss: tuple[str, ...]) -> None:
    assert stpipe("train", *SHORT, "dataset.format=pair", *loss) == 0
    losses = values("loss")
    assert len(losses) == 3 and all(abs(v) < 1e4 for v in losses) and len(set(losses)) == 3


def test_softmax_learns_a_classifier(stpipe: Command, tmp_path: Path) -> None:
    rows = [{"anchor": text(i, 3), "positive": text(i + i % 3), "label": i % 3} for i in range(56)]
    assert stpipe("train", *SHORT, write(tmp_path / "c.jsonl", rows), "dataset.format=pair-class", "loss=softmax") == 0
    assert len(values("loss")) == 3
    plan = json.loads(Path("out/plan.json").read_text())
    assert plan["sources"]["default"]["loss"] == "SoftmaxLoss"


def test_damaged_texts_are_restored(stpipe: Command, tmp_path: Path) -> None:
    rows = [{"anchor": text(i, 12)} for i in range(28)]
    options = ("dataset.format=text", "loss=denoising_auto_encoder", "dataset.eval_rows=0")
    assert stpipe("train", *SHORT, write(tmp_path / "t.jsonl", rows), *options) == 0
    assert len(values("loss")) == 3 and all(v > 0.1 for v in values("loss"))


def test_a_loss_with_a_guide_is_refused(stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert stpipe("train", *SHORT, "dataset.format=pair", "loss=gist_embed") == 2
    message = capsys.readouterr().err
    assert "loss.name" in message and "guide" in message and not Path("out").exists()
