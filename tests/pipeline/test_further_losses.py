"""Losses that learn something themselves, derive something from the data or the model, or need damaged texts, in whole runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

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


def test_a_guide_has_to_be_named(stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert stpipe("train", *SHORT, "dataset.format=pair", "+loss.name=gist_embed") == 2
    message = capsys.readouterr().err
    assert "loss.guide.model" in message and "Name one" in message and not Path("out").exists()


def weights(checkpoints: Path) -> dict[str, torch.Tensor]:
    """All that was trained, as the newest checkpoint has it."""
    found: dict[str, torch.Tensor] = torch.load(max(checkpoints.glob("step-*")) / "module.pt", weights_only=True)
    return found


def test_texts_find_themselves_through_a_twin(stpipe: Command, tmp_path: Path) -> None:
    """The twin is trained beside the model, kept in checkpoints, and no part of what is saved."""
    data = write(tmp_path / "t.jsonl", [{"anchor": text(i, 2 + i % 7)} for i in range(40)])
    options = ("dataset.format=text", "loss=contrastive_tension", "dataset.eval_rows=0", "strategy=recompute")
    assert stpipe("train", *SHORT, data, *options) == 0
    assert len(values("loss")) == 3 and len(set(values("loss"))) == 3 and len(values("scale")) == 3
    kept = weights(Path("out/checkpoints"))
    twins = {name.removeprefix("twin."): tensor for name, tensor in kept.items() if name.startswith("twin.")}
    assert twins.keys() == {name.removeprefix("encoder.") for name in kept if name.startswith("encoder.")}
    assert max(float((kept[f"encoder.{name}"] - twin).abs().max()) for name, twin in twins.items()) > 1e-4
    saved = load_file(Path("out/model/model.safetensors"))
    assert not any("twin" in name for name in saved)
    assert all(any(torch.equal(tensor, kept[name]) for name in kept if name.startswith("encoder.")) for tensor in saved.values())


@pytest.mark.parametrize("labelled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_pairs_made_in_advance_train_a_twin(stpipe: Command, tmp_path: Path, labelled: bool) -> None:
    rows = [{"anchor": text(i), "positive": text(i if i % 4 == 0 else i + 1), "label": int(i % 4 == 0)} for i in range(40)]
    rows = rows if labelled else [{k: v for k, v in row.items() if k != "label"} for row in rows]
    fmt = "pair-class" if labelled else "pair"
    options = (f"dataset.format={fmt}", "loss=contrastive_tension_pairs", "dataset.eval_rows=0", "strategy=micro")
    assert stpipe("train", *SHORT, write(tmp_path / "p.jsonl", rows), *options) == 0
    assert len(values("loss")) == 3 and all(0 < share < 0.7 for share in values("positives"))


@pytest.mark.slow
def test_a_resumed_twin_goes_on(stpipe: Command, tmp_path: Path) -> None:
    """Cut off and continued, the weights of model and twin are those of a run that was not."""
    data = write(tmp_path / "t.jsonl", [{"anchor": text(i, 2 + i % 7)} for i in range(40)])
    options = (
        data,
        "dataset.format=text",
        "loss=contrastive_tension",
        "dataset.eval_rows=0",
        "trainer.save_steps=2",
        "trainer.log_steps=1",
    )
    options += ("evaluator={}", "trainer.max_steps=4")
    assert stpipe("train", "run.dir=whole", *options) == 0
    assert stpipe("train", "run.dir=cut", *options) == 0
    for path in Path("cut/checkpoints").glob("step-*4"):
        shutil.rmtree(path)
    status = json.loads(Path("cut/status.json").read_text())
    shutil.rmtree("cut/model")
    Path("cut/status.json").write_text(json.dumps({**status, "state": "interrupted", "step": 2, "stages": {}}))
    assert stpipe("train", "run.dir=cut", *options, "trainer.resume=auto") == 0
    ends = [weights(Path(name, "checkpoints")) for name in ("whole", "cut")]
    assert any(name.startswith("twin.") for name in ends[0])
    assert ends[0].keys() == ends[1].keys() and all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
