"""Exports as a stage of a run and as a command: what is left behind, what a rejected one does, how it is made good."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stpipe.cli.export import completed

SHORT = ("trainer.max_steps=2", "trainer.eval_steps=null", "evaluator=retrieval", "run.dir=run")
EXPORT = ("export=embeddings", "export.embeddings.tolerance.metric_drop=1")


def status(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "status.json").read_text())
    return found


def test_a_run_exports_before_its_card(stpipe: Callable[..., int], tmp_path: Path) -> None:
    assert stpipe("train", *SHORT, *EXPORT) == 0
    run = tmp_path / "run"
    stages = list(status(run)["stages"])
    assert stages.index("save") < stages.index("evaluate") < stages.index("export") < stages.index("card")
    record = json.loads((run / "exports" / "embeddings" / "verification.json").read_text())
    assert record["passed"] and record["metric"]["name"] == "dev_cosine_ndcg@10"
    assert not (run / "exports" / "rejected").exists()


def test_a_rejected_export_fails_the_stage_but_nothing_else(stpipe: Callable[..., int], tmp_path: Path) -> None:
    strict = (*SHORT, *EXPORT, "export.embeddings.tolerance.mean_cosine=1")
    assert stpipe("train", *strict) == 5
    run = tmp_path / "run"
    assert (run / "exports" / "rejected" / "embeddings" / "ranges.npy").is_file() and not (run / "exports" / "embeddings").exists()
    found = status(run)
    assert found["state"] == "partial" and found["stages"]["export"]["state"] == "failed"
    assert "tolerance.mean_cosine" in found["error"] and "exports/rejected/embeddings" in found["error"]
    assert (run / "model" / "README.md").is_file() and (run / "report.html").is_file()
    assert stpipe("train", *SHORT, *EXPORT, "trainer.resume=auto") == 0  # what is exported does not change what was trained
    assert status(run)["state"] == "finished"
    assert (run / "exports" / "embeddings").is_dir() and not list((run / "exports" / "rejected").iterdir())


@pytest.mark.slow
def test_the_command_on_a_run_and_on_a_model(stpipe: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stpipe("train", *SHORT) == 0
    from stpipe.cli.main import main

    assert main(["export", "run", *EXPORT]) == 0
    assert (tmp_path / "run" / "exports" / "embeddings" / "ranges.npy").is_file()
    shown = capsys.readouterr().out
    assert "embeddings" in shown and "yes" in shown
    assert main(["export", "run"]) == 2 and "there is no export" in capsys.readouterr().err
    assert main(["export", "run", "export=embeddings", "export.embeddings.tolerance.mean_cosine=1"]) == 5
    assert main(["export"]) == 2 and "MODEL is missing" in capsys.readouterr().err
    assert main(["export", "run/model", *EXPORT, f"dataset.train={tmp_path / 'pairs.jsonl'}", "loss=null", "offline=true"]) == 0
    assert list((tmp_path / "outputs" / "export").glob("*/exports/embeddings/verification.json"))


def test_models_without_data_are_compared_on_docstrings() -> None:
    assert completed(["export=onnx"]) == ["export=onnx", "dataset.train=stdlib://docstrings", "loss=null"]
    assert completed(["export=onnx", "dataset=stsb"]) == ["export=onnx", "dataset=stsb"]
    assert completed(["export=onnx", "loss=mnrl"])[-1] == "dataset.train=stdlib://docstrings"
