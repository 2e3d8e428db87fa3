"""Runs that read their data while they train: continued exactly, and ended well by a bad row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pipeline.conftest import Command, word
from tests.pipeline.test_resume import losses, stop_after, weights

SHARED = ("trainer.max_steps=12", "trainer.save_steps=2", "trainer.log_steps=1", "dataset.streaming=true", "dataset.shuffle_buffer=16")


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """40 scored pairs in two files."""
    folder = tmp_path / "scores"
    folder.mkdir()
    rows = [{"sentence1": f"{word(i)} {word(i + 3)}", "sentence2": word(i * 7), "score": (i % 5) / 4} for i in range(40)]
    for k in range(2):
        (folder / f"train-{k}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[20 * k : 20 * k + 20]))
    return folder


def mixture(pairs: Path, scores: Path) -> tuple[str, ...]:
    """Two streams and a prepared data set, each with its own loss, batch size and prompt."""
    sources = {
        "pairs": f"train: {pairs}, loss: {{name: mnrl}}, weight: 2, prompts: {{anchor: 'w1 '}}",
        "scores": f"train: {scores}, loss: {{name: cosent}}, weight: 1, batch_size: 4",
        "held": f"train: {pairs}, loss: {{name: mnrl}}, weight: 1, streaming: false",
    }
    inner = ", ".join(
        f"{name}: {{{keys}{'' if name == 'held' else ', streaming: true, shuffle_buffer: 16'}}}" for name, keys in sources.items()
    )
    return (f"dataset.sources={{{inner}}}", "dataset.train=null", "sampler=no_duplicates", "sampler.mixing=weighted")


@pytest.mark.parametrize("data", ["one", pytest.param("mixture", marks=pytest.mark.slow)])
def test_two_interruptions_change_nothing(stpipe: Command, monkeypatch: pytest.MonkeyPatch, pairs: Path, scores: Path, data: str) -> None:
    keys = SHARED if data == "one" else (*SHARED[:3], *mixture(pairs, scores), "trainer.num_workers=2")
    assert stpipe("train", "run.dir=whole", *keys) == 0
    for step in (5, 9):
        with monkeypatch.context() as patch:
            stop_after(patch, step)
            assert stpipe("train", "run.dir=cut", *keys, "trainer.resume=auto") == 130
    assert stpipe("train", "run.dir=cut", *keys, "trainer.resume=auto") == 0
    assert weights("cut") == weights("whole")
    assert losses("cut") == losses("whole") and len({value for _, value in losses("whole")}) == 12
    status = json.loads(Path("cut/status.json").read_text())
    assert [r["step"] for r in status["resumed"]] == [4, 8]
    plan = json.loads(Path("whole/plan.json").read_text())["sources"]
    assert {name: source["rows"] for name, source in plan.items()} == (
        {"default": None} if data == "one" else {"pairs": None, "scores": None, "held": 48}
    )


def test_a_bad_row_ends_the_run_with_its_place_and_leaves_the_checkpoint(
    stpipe: Command, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = pairs.read_text().splitlines()
    lines[50] = json.dumps({"anchor": "w1", "positive": ["w2"]})
    pairs.write_text("\n".join(lines) + "\n")
    assert stpipe("train", "run.dir=run", *SHARED) == 3
    said = capsys.readouterr().err
    assert "pairs.jsonl line 51" in said and "positive" in said and "Traceback" not in said
    status = json.loads(Path("run/status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 3) and "pairs.jsonl line 51" in status["error"]
    assert [p.name for p in sorted(Path("run/checkpoints").iterdir())][-1] == "step-00000004", (
        "windows of 16 rows after the 8 held out: the third one is bad"
    )


def test_what_a_stream_cannot_is_refused_before_training(stpipe: Command, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stpipe("train", "run.dir=run", "dataset.streaming=true") == 2
    said = capsys.readouterr().err
    assert "trainer.max_steps" in said and "dataset.streaming" in said and not Path("run").exists()


def test_changed_files_are_refused(
    stpipe: Command, monkeypatch: pytest.MonkeyPatch, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert stpipe("train", "run.dir=cut", *SHARED) == 130
    pairs.write_text(pairs.read_text()[:-30] + 'w3"}\n')
    assert stpipe("train", "run.dir=cut", *SHARED, "trainer.resume=auto") == 2
    assert "fingerprint of data 'default'" in capsys.readouterr().err
