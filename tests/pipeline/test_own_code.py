"""Runs from a model that brings Python code: refused before anything is written, or said wherever the run is told of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.models.test_own_code import bring_code
from tests.pipeline.conftest import Command


@pytest.mark.slow
def test_code_that_was_run_is_on_record(
    stpipe: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OWN_CODE_RAN", str(tmp_path / "ran"))
    run = ("train", f"model.name_or_path={bring_code(tmp_path / 'own')}", "run.dir=out", "trainer.max_steps=2", "evaluator={}")
    assert stpipe(*run) == 2
    assert "model.trust_remote_code=true" in capsys.readouterr().err and not Path("out").exists() and not (tmp_path / "ran").exists()
    assert stpipe(*run, "model.trust_remote_code=true") == 0
    assert (tmp_path / "ran").exists()
    for record in ("status.json", "plan.json"):
        assert any("trust_remote_code=true" in text for text in json.loads(Path("out", record).read_text())["warnings"]), record
    assert "`trust_remote_code=True`" in Path("out/model/README.md").read_text()
    assert "trust_remote_code=true" in Path("out/report.html").read_text()
