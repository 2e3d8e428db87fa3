"""What a run does differently from its recipe, and who said so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stpipe.config.load import Loaded, load_config


def changes(*overrides: str, **options: Any) -> dict[str, dict[str, Any]]:
    found = load_config(list(overrides), **options).changes
    assert len({c["key"] for c in found}) == len(found)
    return {c["key"]: c for c in found}


def test_a_recipe_alone_is_unchanged() -> None:
    assert changes("+recipe=dense_quickstart") == {}
    assert changes("+recipe=splade_nq", "run.name=x", "run.dir=elsewhere") == {}


def test_overrides_and_profiles_are_told_apart() -> None:
    found = changes("+recipe=dense_quickstart", "+profile=offline", "trainer.max_steps=20", "loss.scale=30", "optimizer.lr=5e-5")
    assert found["trainer.max_steps"] == {"key": "trainer.max_steps", "value": 20, "recipe": None, "set_by": "command line"}
    assert found["loss.scale"] == {"key": "loss.scale", "value": 30.0, "recipe": 20.0, "set_by": "command line"}
    assert found["offline"]["set_by"].startswith("configs/profile/offline.yaml:")
    assert found["model.name_or_path"]["recipe"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert "optimizer.lr" not in found, "it was set to what the recipe has"


def test_what_follows_from_other_keys_was_set_by_no_one() -> None:
    found = changes("+recipe=splade_nq", "+profile=offline")
    assert found["dataset.train"]["recipe"] == "sentence-transformers/natural-questions"
    assert found["dataset.train"]["set_by"] == ""
    assert found["loss.document_active_dims"]["set_by"].startswith("recipes/splade_nq.yaml:"), "a block for the profile"


def test_another_component_brings_other_keys() -> None:
    found = changes("+recipe=dense_quickstart", "loss=mega_batch_margin")
    assert found["loss.name"]["value"] == "mega_batch_margin" and found["loss.name"]["recipe"] == "mnrl"
    assert all("recipe" in c or c["key"].startswith("loss.") for c in found.values())


def test_without_a_recipe_there_is_nothing_to_compare_with() -> None:
    assert changes("model=minilm", "dataset=docstrings") == {}


def test_an_incomplete_recipe_compares_with_nothing(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "half.yaml").write_text("# @package _global_\nmodel: {name: dense}\n", encoding="utf-8")
    rest = ("model.name_or_path=x", "dataset=docstrings", "loss=mnrl")
    assert changes("+recipe=half", *rest, config_dir=str(tmp_path)) == {}


def test_secrets_are_not_told(monkeypatch: Any, tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    text = "# @package _global_\nmodel: {name: dense, name_or_path: x, revision: '${oc.env:A_SECRET}'}\ndataset: {train: 'stdlib://docstrings', format: pair}\n"
    (tmp_path / "recipe" / "mine.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("A_SECRET", "hunter2")
    found = changes("+recipe=mine", "model.revision=main", config_dir=str(tmp_path))
    assert found["model.revision"]["value"] == "main"
    assert found["model.revision"]["recipe"] == "${oc.env:A_SECRET}"
    assert "hunter2" not in json.dumps(list(found.values()))


def test_other_processes_get_the_same() -> None:
    loaded = load_config(["+recipe=dense_quickstart", "trainer.seed=3"])
    sent = json.loads(json.dumps(loaded.as_json()))
    assert Loaded.from_json(sent).changes == loaded.changes != []
