"""`stpipe compare`: exit codes, files, errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stpipe.cli.main import main
from tests.gate.runs import make_run, retrieval

SCORES = np.random.default_rng(6).uniform(0.2, 0.6, 40)


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    return [
        str(make_run(tmp_path / name, {"ir": retrieval(SCORES + change, texts=[f"q {i}" for i in range(40)])}))
        for name, change in (("old", 0.0), ("new", -0.1))
    ]


def test_prints_and_writes_and_fails_by_a_drop(pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "html", "markdown")}
    assert main(["compare", *pair]) == 0
    flags = [part for kind, path in files.items() for part in (f"--{kind}", str(path))]
    assert main(["compare", *pair, "--max-drop", "0.05", *flags]) == 4
    assert "worse by 0.1000" in capsys.readouterr().out
    assert json.loads(files["json"].read_text())["failures"] and "<svg" in files["html"].read_text()
    assert files["markdown"].read_text().startswith("# new against old")
    assert main(["compare", *pair, "--max-drop", "0.2"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "at least two runs"),
        (["--strict"], "--max-drop"),
        (["--resamples", "3"], "--resamples 3"),
        (["--confidence", "95"], "--confidence 95"),
        (["--max-drop", "-1"], "--max-drop"),
        (["--json", "nowhere/at/all.json"], "no directory"),
        (["--system", "befor"], "system 'befor'"),
    ],
)
def test_mistakes_end_with_2(pair: list[str], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *(pair if arguments else pair[:1]), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_no_run_at_all_and_the_same_run_twice(pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", pair[0], str(tmp_path / "nothing")]) == 2
    assert main(["compare", pair[0], pair[0]]) == 2
    assert "twice" in capsys.readouterr().err


def test_runs_are_named_by_their_directories(pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By what the user typed, whatever run.name is; by whole paths where that does not tell them apart."""
    other = tmp_path / "elsewhere" / "new"
    other.parent.mkdir()
    Path(pair[0]).rename(other)
    assert main(["compare", str(other), pair[1]]) == 0
    assert capsys.readouterr().out.startswith(f"# {pair[1]} against {other}\n")
    other.rename(tmp_path / "renamed")
    assert main(["compare", str(tmp_path / "renamed"), f"{pair[1]}/"]) == 0
    assert capsys.readouterr().out.startswith("# new against renamed\n")
