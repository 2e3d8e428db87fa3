from __future__ import annotations

import pytest

from stpipe.config.compose import compose, config_loader, hydra_overrides
from stpipe.config.errors import ConfigError
from stpipe.config.load import load_config, redact
from stpipe.config.origins import leaves
from stpipe.config.schema import load_schema
from stpipe.config.yaml_file import write_yaml

BASE = ["model=minilm", "dataset=docstrings"]


@pytest.fixture
def own(tmp_path):
    """A user's config folder; returns a function that writes a file into it."""

    def write(path, text):
        file = tmp_path / "own" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return str(tmp_path / "own")

    return write


def refused(overrides, **options):
    with pytest.raises(ConfigError) as caught:
        load_config(overrides, **options)
    return str(caught.value)


def test_nothing_but_what_was_set_is_composed():
    composed = compose(["optimizer=adamw", "trainer.seed=3"])
    assert composed.values == {"optimizer": {"name": "adamw"}, "trainer": {"seed": 3}}
    assert composed.origins.where(("optimizer", "name")) == "optimizer=adamw"


def test_each_layer_keeps_its_origin():
    composed = compose(["+recipe=dense_quickstart", "trainer.batch_size=8"])
    where = composed.origins.where
    assert where(("trainer", "batch_size")) == "trainer.batch_size=8"
    assert where(("trainer", "num_epochs")).startswith("recipes/dense_quickstart.yaml:")
    assert where(("model", "name_or_path")).startswith("configs/model/minilm.yaml:")
    assert where(("model", "name")).startswith("configs/model/minilm.yaml:2")
    assert where(("loss", "name")).startswith("recipes/dense_quickstart.yaml:")
    assert where(("evaluator", "dev", "name")).startswith("configs/evaluator/retrieval.yaml:")
    unplaced = [path for path, _ in leaves(composed.values) if not where(path)]
    assert not unplaced
    assert len(list(leaves(composed.values))) > 12


def test_values_equal_those_that_hydra_merges():
    """Hydra shows what is run: every value that is set here is the one in `--cfg job`."""
    from omegaconf import OmegaConf

    for overrides in (["+recipe=mnrl_gooaq", "+profile=offline", "+profile=smoke"], ["+recipe=multi_dataset", "optimizer.lr=1e-3"]):
        composed = compose(overrides)
        loader = config_loader(load_schema())
        from hydra.types import RunMode

        shown = OmegaConf.to_container(loader.load_configuration("train", hydra_overrides(overrides, loader), RunMode.RUN))
        for path, value in leaves(composed.values):
            theirs = shown
            for part in path:
                theirs = theirs[part]
            assert theirs == value, path


def test_recipe_and_profile_work_without_plus_and_in_any_order():
    a = compose(["+recipe=cosent_stsb", "+profile=offline", "+profile=smoke"])
    b = compose(["profile=[offline,smoke]", "recipe=cosent_stsb"])
    assert a.values == b.values
    assert a.recipe == "cosent_stsb"
    assert a.choices["profile"] == ["offline", "smoke"]
    assert a.values["model"]["name_or_path"].startswith("package://")


def test_chosen_group_wins_over_the_recipe():
    composed = compose(["+recipe=matryoshka_all_nli", "loss=mnrl"])
    assert composed.values["loss"] == {"name": "mnrl"}
    assert len(composed.warnings) == 1
    assert composed.warnings[0].startswith("loss=mnrl replaces what the recipe sets: loss.dims")
    assert "recipes/matryoshka_all_nli.yaml:" in composed.warnings[0]


def test_another_name_starts_a_component_anew():
    composed = compose(["+recipe=triplet_all_nli", "loss.name=mnrl", "loss.scale=3"])
    assert composed.values["loss"] == {"name": "mnrl", "scale": 3}
    assert any("loss.triplet_margin (recipes/triplet_all_nli.yaml:" in w for w in composed.warnings)
    kept = compose(["+recipe=triplet_all_nli", "loss.name=TripletLoss"])
    assert kept.values["loss"] == {"metric": "cosine", "triplet_margin": 0.3, "name": "TripletLoss"}
    assert not kept.warnings


def test_run_name_is_no_component():
    assert compose(["run.name=a", "run.dir=b"]).values["run"] == {"name": "a", "dir": "b"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["los=mnrl"], r"los: unknown key. Did you mean 'loss'\?.*\[los=mnrl\]"),
        (["loss=mnlr"], r"loss: unknown loss option 'mnlr'. Did you mean 'mnrl'\?.*\[loss=mnlr\]"),
        (["+recipe=cosent_stbs"], r"recipe: unknown recipe 'cosent_stbs'. Did you mean 'cosent_stsb'\?"),
        (["+profile=ofline"], r"Did you mean 'offline'\?"),
        (["+profile=[smoke,ofline]"], r"Did you mean 'offline'\?"),
        (["trainer.seed=1,2"], r"trainer.seed: several values. Add --multirun.*\[trainer.seed=1,2\]"),
        (["a.b=[1,2"], r"cannot read this override.*\[a.b=\[1,2\]"),
        (["~trainer.seed"], r"trainer.seed: nothing sets this key"),
        (["+recipe=cosent_stsb", "~optimizer.rl"], r"nothing sets this key.*Did you mean 'lr'\?"),
        (["+recipe=cosent_stsb", "+recipe=mnrl_all_nli"], r"one recipe is a whole run"),
        (["dataset.train=${oc.env:STPIPE_NOT_SET}"], r"dataset.train: the environment variable STPIPE_NOT_SET is not set"),
        (["dataset.train=${no.such.key}"], r"dataset.train: cannot resolve \$\{no.such.key\}"),
    ],
)
def test_mistakes_on_the_command_line(overrides, message):
    import re

    assert re.search(message, refused([*BASE, *overrides]))


def test_problems_of_all_kinds_come_together():
    text = refused(["+recipe=cosent_stsb", "trainer.sed=1", "optimizer.lr=abc", "card.license=${oc.env:STPIPE_NOT_SET}", "~run.name"])
    for key in ("trainer.sed", "optimizer.lr", "card.license", "run.name"):
        assert f"{key}: " in text


def test_deleting_a_key_of_the_recipe():
    assert "lr" not in compose(["+recipe=cosent_stsb", "~optimizer.lr"]).values["optimizer"]


def test_own_folder_comes_first_and_holds_recipes(own):
    folder = own(
        "recipe/mine.yaml", "# @package _global_\ndefaults: [override /model: tiny, override /dataset: docstrings]\ntrainer: {seed: 5}\n"
    )
    own("model/tiny.yaml", "defaults: [dense]\nname_or_path: ./nowhere\n")
    own("loss/mnrl.yaml", "name: mnrl\nscale: 7\n")
    composed = compose(["+recipe=mine", "loss=mnrl"], config_dir=folder)
    assert composed.values["trainer"] == {"seed": 5}
    assert composed.values["loss"]["scale"] == 7
    assert "model.name_or_path: there is no file or directory" in refused(["+recipe=mine"], config_dir=folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults: [override /model: minlm]\n", r"model: unknown model option 'minlm'. Did you mean 'minilm'\?.*bad.yaml:2\]"),
        ("defaults: [override /modle: minilm]\n", r"modle: unknown config group 'modle'. Did you mean 'model'\?.*bad.yaml:2\]"),
        ("trainer: [1, 2\n", r"not valid YAML.*bad.yaml:\d"),
        ("trainer: {seed: 1, seed: 2}\n", r"(duplicate|twice).*bad.yaml:2\]"),
        ("trainer: {sede: 1}\n", r"trainer.sede: unknown key. Did you mean 'seed'\?.*bad.yaml:2\]"),
    ],
)
def test_mistakes_in_a_recipe_name_file_and_line(own, text, message):
    import re

    folder = own("recipe/bad.yaml", "# @package _global_\n" + text)
    assert re.search(message, refused(["dataset=docstrings", "+recipe=bad"], config_dir=folder))


def test_missing_config_folder_and_primary_config():
    assert "config folder" in refused(BASE, config_dir="/does/not/exist")
    assert "there is no primary config 'trian'" in refused(BASE, config_name="trian")


def test_environment_values_are_used_and_never_shown(monkeypatch):
    monkeypatch.setenv("STPIPE_TEST_SECRET", "hunter2")
    loaded = load_config(
        [*BASE, "card.license=${oc.env:STPIPE_TEST_SECRET}", "card.model_name=model-${card.license}", "run.tags=[a,'${card.license}']"]
    )
    assert loaded.values["card"]["license"] == "hunter2"
    assert loaded.values["card"]["model_name"] == "model-hunter2"
    assert "hunter2" not in str(redact(loaded))
    assert redact(loaded)["run"]["tags"] == ["a", "${card.license}"]
    assert "hunter2" not in refused([*BASE, "trainer.seed=${oc.env:STPIPE_TEST_SECRET}"])


def test_interpolation_of_a_default():
    assert load_config([*BASE, "dataset.max_rows=${trainer.batch_size}"]).values["dataset"]["max_rows"] == 32


def test_saved_configuration_repeats_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("STPIPE_TEST_SECRET", "hunter2")
    first = load_config(["+recipe=multi_dataset", "+profile=offline", "card.license=${oc.env:STPIPE_TEST_SECRET}"])
    (tmp_path / "config.yaml").write_text(write_yaml(redact(first)))
    again = load_config([], from_dir=str(tmp_path))
    assert again.values["card"]["license"] == "hunter2"
    assert again.values["run"]["name"] == first.values["run"]["name"] + "-repeat"
    assert {k: v for k, v in again.values.items() if k != "run"} == {k: v for k, v in first.values.items() if k != "run"}
    changed = load_config(
        ["trainer.seed=7", "evaluator=none", "trainer.best_metric=null", "run.name=other", "run.dir=there"], from_dir=str(tmp_path)
    )
    assert changed.values["trainer"]["seed"] == 7
    assert changed.values["evaluator"] == {}
    assert changed.values["run"] == {**first.values["run"], "name": "other", "dir": "there"}
    assert "leave the recipe out" in refused(["+recipe=multi_dataset"], from_dir=str(tmp_path))
    assert "holds no config.yaml" in refused([], from_dir=str(tmp_path / "nowhere"))
