from __future__ import annotations

import importlib.util

import pytest

from stpipe.config.errors import ConfigError
from stpipe.config.load import load_config
from stpipe.config.schema import component, load_schema

BASE = ("model=minilm", "dataset=docstrings")


def refused(*overrides: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_config([*BASE, *overrides])
    return {problem.key: f"{problem.message} [{problem.where}]" for problem in caught.value.problems}


def test_several_trackers_each_under_its_name():
    values = load_config([*BASE, "tracker=[mlflow,tensorboard]", "tracker.mlflow.experiment=mine"]).values["tracker"]
    assert {name: found["name"] for name, found in values.items()} == {"mlflow": "mlflow", "tensorboard": "tensorboard"}
    assert values["mlflow"]["experiment"] == "mine" and values["mlflow"]["timeout"] == 60.0
    named = load_config([*BASE, "tracker={a: {name: mlflow, experiment: x}, b: {name: mlflow, experiment: y}}"]).values["tracker"]
    assert [named[name]["experiment"] for name in ("a", "b")] == ["x", "y"]
    assert load_config(BASE).values["tracker"] == {}


def test_trackers_and_publishing_do_not_change_what_a_run_is():
    plain, tracked = load_config(BASE), load_config([*BASE, "tracker=tensorboard", "publish.repo_id=me/model"])
    assert tracked.values["run"]["name"] == plain.values["run"]["name"]


def test_a_package_that_is_not_installed(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else real(name, *rest))
    found = refused("tracker=wandb")
    assert "pip install 'stpipe[wandb]'" in found["tracker.wandb.name"]
    facts = component(load_schema(), "tracker", "mlflow")
    assert (facts["x-package"], facts["x-extra"]) == ("mlflow", "mlflow")


def test_passwords_in_addresses_are_refused_without_being_shown():
    found = refused("tracker=mlflow", "tracker.mlflow.tracking_uri=http://user:hunter2@host")
    assert "MLFLOW_TRACKING_PASSWORD" in found["tracker.mlflow.tracking_uri"]
    assert "hunter2" not in str(found)
    load_config([*BASE, "tracker=mlflow", "tracker.mlflow.tracking_uri=http://host:5000/a@b"])


def test_names_are_names_of_files():
    assert "letters, digits" in refused("tracker={a/b: {name: tensorboard}}")["tracker.a/b"]


@pytest.mark.parametrize(("repository", "good"), [("me/model", True), ("model", True), ("a/b/c", False), ("a b", False), ("x" * 97, False)])
def test_names_of_repositories(repository, good):
    override = f"publish.repo_id='{repository}'"
    if good:
        assert load_config([*BASE, override]).values["publish"]["private"] is True
    else:
        assert "OWNER/NAME" in refused(override)["publish.repo_id"]


def test_publishing_needs_a_hub():
    assert "offline=true" in refused("publish.repo_id=me/model", "offline=true")["publish"]
    assert "required key" in refused("publish.private=true")["publish.repo_id"]
