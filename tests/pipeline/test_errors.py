"""Each mistake: one clear message, the exit code of the contract, and nothing left behind under a final name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pipeline.conftest import Command


def jsonl(name: str, rows: list[dict]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(Path(name).resolve())


GOOD = [{"anchor": f"w{i}", "positive": f"w{i + 1} w{i}"} for i in range(30)]


def bad_row() -> tuple[str, ...]:
    return (f"dataset.train={jsonl('bad.jsonl', [*GOOD[:10], {'anchor': 'w1', 'positive': None}, *GOOD[11:]])}",)


def broken_line() -> tuple[str, ...]:
    path = jsonl("broken.jsonl", GOOD)
    lines = Path(path).read_text().splitlines()
    lines[4] = lines[4][:-6]
    Path(path).write_text("\n".join(lines) + "\n")
    return (f"dataset.train={path}",)


def empty() -> tuple[str, ...]:
    Path("empty.jsonl").write_text("")
    return (f"dataset.train={Path('empty.jsonl').resolve()}",)


def missing_file() -> tuple[str, ...]:
    return ("dataset.train=no/such/file.jsonl",)


def unknown_column() -> tuple[str, ...]:
    return ("dataset.columns={anchor: anchr, positive: positive}",)


def unwritable() -> tuple[str, ...]:
    Path("blocker").write_text("a file")
    return ("run.dir=blocker/run",)


def no_model() -> tuple[str, ...]:
    return ("model.name_or_path=./no-such-model",)


def label_range() -> tuple[str, ...]:
    rows = [{**row, "label": 0.5} for row in GOOD]
    rows[7]["label"] = 4.5
    return (f"dataset.train={jsonl('scored.jsonl', rows)}", "loss=cosine_similarity")


CASES = {
    "bad row": (bad_row, 3, ["positive", "11"]),
    "broken line": (broken_line, 3, ["broken.jsonl", "5"]),
    "empty": (empty, 3, ["empty.jsonl"]),
    "missing file": (missing_file, 2, ["no/such/file.jsonl", "dataset.train"]),
    "unknown column": (unknown_column, 3, ["anchr", "anchor"]),
    "unwritable": (unwritable, 2, ["run.dir", "blocker"]),
    "no model": (no_model, 2, ["no-such-model"]),
    "label range": (label_range, 3, ["4.5"]),
}


@pytest.mark.parametrize("case", list(CASES))
def test_mistake(case: str, stpipe: Command, capsys: pytest.CaptureFixture[str]) -> None:
    make, code, words = CASES[case]
    overrides = make()
    before = set(Path().rglob("*"))
    run_dir = () if any(o.startswith("run.dir") for o in overrides) else ("run.dir=out",)
    assert stpipe("train", *overrides, *run_dir, "trainer.max_steps=2") == code
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert "Traceback" not in message
    assert set(Path().rglob("*")) == before, "something was left behind"
