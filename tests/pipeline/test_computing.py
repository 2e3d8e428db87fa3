"""Strategies of a whole run: what the plan says of them, what `auto` chooses, and that a continued run keeps it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stpipe.config.load import load_config, to_root
from stpipe.engine import memory
from stpipe.engine.checkpoint import list_checkpoints
from stpipe.engine.memory import Memory
from stpipe.pipeline.assemble import assemble
from stpipe.pipeline.console import console
from tests.pipeline.conftest import Command
from tests.pipeline.test_resume import losses, stop_after, weights

SHORT = ("trainer.max_steps=4", "trainer.save_steps=2", "trainer.log_steps=1")
CUT = "strategy.token_budget=40"


def plan(run: str) -> dict[str, Any]:
    return json.loads((Path(run) / "plan.json").read_text())


def little_memory(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(memory, "memory_of", lambda device: Memory(free, free))


def test_the_plan_states_what_a_batch_is(stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert stpipe("train", "run.dir=a", *SHORT, "trainer.accumulation_steps=2", CUT, "trainer.progress=line") == 0
    found = plan("a")
    assert (found["global_batch"], found["negatives_per_anchor"]) == (8, 7)
    assert found["strategy"] == "plain" and found["padding_share"] == 0.0
    assert found["micro_batches_per_step"] > 2 and found["tokens_per_step"] > 100
    assert found["pool_bytes"] == 2 * 8 * 32 * 4
    (line,) = found["strategy_reasons"]
    assert line.startswith("plain: activations of the longest batch (") and line.endswith(" may be used")
    shown = " ".join(capsys.readouterr().err.split())
    assert "micro-batch(es) a step on each process" in shown and "padding" in shown and "plain: activations" in shown


def test_padding_is_stated_where_there_is_some(stpipe: Command) -> None:
    assert stpipe("train", "run.dir=a", *SHORT, "model.layout=padded", CUT) == 0
    assert 0.0 < plan("a")["padding_share"] < 0.9


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ((), "recompute"),
        (("+loss.name=mnrl", "strategy=two_pass"), "two_pass"),
        (("+loss.name=mnrl", "strategy=plain"), "plain"),
    ],
)
def test_without_memory(stpipe: Command, monkeypatch: pytest.MonkeyPatch, extra: tuple[str, ...], expected: str) -> None:
    little_memory(monkeypatch, 1)
    assert stpipe("train", "run.dir=a", *SHORT, CUT, *extra) == 0
    assert plan("a")["strategy"] == expected
    newest = list_checkpoints(Path("a/checkpoints"))[-1]
    assert newest.state()["strategies"] == {"default": expected}


def test_each_data_set_has_its_own(stpipe: Command, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little_memory(monkeypatch, 1)
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    scored = tmp_path / "scored.jsonl"
    scored.write_text("".join(json.dumps({**row, "score": (i % 3) / 2}) + "\n" for i, row in enumerate(rows)))
    sources = (
        f"dataset.sources={{a: {{train: {pairs}}}, b: {{train: {scored}, columns: {{anchor: anchor, positive: positive, label: score}}, "
        "format: pair-score, loss: {name: cosine_similarity}}}"
    )
    assert stpipe("train", "run.dir=a", *SHORT, CUT, sources, "dataset.train=null", "trainer.probe_first_step=true") == 0
    found = plan("a")
    assert {name: s["strategy"] for name, s in found["sources"].items()} == {"a": "recompute", "b": "micro"}
    assert found["strategy"] == "recompute and micro"
    assert [line.rsplit(" (", 1)[1] for line in found["strategy_reasons"]] == ["a)", "b)"]


def test_a_continued_run_keeps_its_choice(stpipe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the memory would now say otherwise; the result is that of a run that was not interrupted."""
    with monkeypatch.context() as patch:
        little_memory(patch, 1)
        assert stpipe("train", "run.dir=whole", *SHORT, CUT) == 0
        stop_after(patch, 3)
        assert stpipe("train", "run.dir=cut", *SHORT, CUT, "trainer.resume=auto") == 130
    assert stpipe("train", "run.dir=cut", *SHORT, CUT, "trainer.resume=auto") == 0
    assert plan("cut")["strategy_reasons"] == ["recompute: as chosen when the run began"]
    assert weights("cut") == weights("whole") and losses("cut") == losses("whole")


@pytest.mark.parametrize("strategy", ["micro", "two_pass", "recompute"])
def test_interruptions_change_nothing(stpipe: Command, monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    extra = (f"strategy={strategy}", CUT)
    data = (
        ("+loss.name=triplet", "dataset.columns={anchor: anchor, positive: positive, negative_1: negative}") if strategy == "micro" else ()
    )
    if data:
        with_negatives(Path("pairs.jsonl"))
    assert stpipe("train", "run.dir=whole", *SHORT, *extra, *data) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert stpipe("train", "run.dir=cut", *SHORT, *extra, *data, "trainer.resume=auto") == 130
    assert stpipe("train", "run.dir=cut", *SHORT, *extra, *data, "trainer.resume=auto") == 0
    assert weights("cut") == weights("whole") and plan("cut")["strategy"] == strategy


def with_negatives(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "negative": rows[i - 5]["positive"]}) + "\n" for i, row in enumerate(rows)))


def test_gradient_checkpointing_reaches_the_backbone(tiny_model: Path, pairs: Path) -> None:
    for extra, expected in ((), False), (("trainer.gradient_checkpointing=true",), True):
        loaded = load_config(["model=dense", f"model.name_or_path={tiny_model}", f"dataset.train={pairs}", "dataset.eval_rows=8", *extra])
        parts = assemble(to_root(loaded.values), console("off"))
        assert parts.model.encoder.backbone.model.is_gradient_checkpointing is expected
