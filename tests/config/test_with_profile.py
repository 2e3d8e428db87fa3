"""`with_profile`: what a recipe says for the runs in which a profile is chosen too."""

from __future__ import annotations

import re

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from stpipe.config.compose import compose, config_loader, hydra_overrides
from stpipe.config.compose.composer import _peek
from stpipe.config.errors import ConfigError
from stpipe.config.load import load_config, redact
from stpipe.config.origins import at, leaves
from stpipe.config.schema import load_schema
from stpipe.config.yaml_file import write_yaml

RECIPE = """\
# @package _global_
defaults: [override /model: minilm, override /dataset: docstrings, override /loss: mnrl, override /sampler: no_duplicates, _self_]
trainer: {seed: 1, batch_size: 8}
with_profile:
  offline:
    trainer: {batch_size: 24}
    loss: {scale: 7}
  smoke:
    trainer: {max_steps: 3}
    dataset: {max_rows: 99}
"""


@pytest.fixture
def own(tmp_path):
    """Writes files into a folder of the user's; returns the options that make it known."""

    def write(text=RECIPE, **more):
        for name, content in {"recipe/mine.yaml": text, **more}.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        return {"config_dir": str(tmp_path)}

    return write


def problems(overrides, **options):
    with pytest.raises(ConfigError) as caught:
        load_config(overrides, **options)
    assert caught.value.exit_code == 2
    return {p.key: p for p in caught.value.problems}


def trainer(overrides, **options):
    return compose(overrides, **options).values["trainer"]


def test_without_the_profile_nothing_of_a_block_holds(own):
    options = own()
    composed = compose(["+recipe=mine"], **options)
    assert composed.values["trainer"] == {"seed": 1, "batch_size": 8}
    assert composed.values["loss"] == {"name": "mnrl"}
    assert not composed.problems


def test_a_block_holds_with_its_profile_in_any_order_of_the_command_line(own):
    options = own()
    expected = compose(["+recipe=mine", "+profile=offline"], **options)
    assert expected.values["trainer"] == {"seed": 1, "batch_size": 24}
    assert expected.values["loss"] == {"name": "mnrl", "scale": 7}
    for overrides in (["+profile=offline", "+recipe=mine"], ["profile=offline", "recipe=mine"], ["+profile=[offline]", "+recipe=mine"]):
        assert compose(overrides, **options).values == expected.values


def test_every_value_of_a_block_knows_its_line(own):
    where = compose(["+recipe=mine", "+profile=offline"], **own()).origins.where
    assert where(("trainer", "batch_size")).endswith("mine.yaml:6")
    assert where(("loss", "scale")).endswith("mine.yaml:7")
    assert where(("trainer", "seed")).endswith("mine.yaml:3")
    assert where(("offline",)).startswith("configs/profile/offline.yaml:")


def test_each_layer_wins_over_the_ones_before(own):
    options = own()
    assert compose(["+recipe=mine", "+profile=smoke"], **options).values["dataset"]["max_rows"] == 99, "the block over its profile"
    both = trainer(["+recipe=mine", "+profile=[offline,smoke]"], **options)
    assert both["batch_size"] == 16, "a later profile over the block of an earlier one"
    assert trainer(["+recipe=mine", "+profile=[smoke,offline]"], **options)["batch_size"] == 24
    assert both["max_steps"] == 3
    over = ["trainer.batch_size=2", "+recipe=mine", "+profile=[smoke,offline]"]
    assert trainer(over, **options)["batch_size"] == 2, "the command line over all"


def test_a_run_never_holds_blocks(own, tmp_path):
    options = own()
    for profile in ([], ["+profile=offline"]):
        loaded = load_config(["+recipe=mine", *profile], **options)
        assert "with_profile" not in loaded.values
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "config.yaml").write_text(write_yaml(redact(loaded)))
        again = load_config([], from_dir=str(tmp_path / "run"))
        assert {k: v for k, v in again.values.items() if k != "run"} == {k: v for k, v in loaded.values.items() if k != "run"}
    smoke = load_config(["+profile=smoke"], from_dir=str(tmp_path / "run"))
    assert smoke.values["trainer"]["max_steps"] == 4, "a saved run is whole: no block is laid over it"


def test_a_group_chosen_on_the_command_line_drops_the_keys_of_the_block(own):
    composed = compose(["+recipe=mine", "+profile=offline", "loss=cosent"], **own())
    assert composed.values["loss"] == {"name": "cosent"}
    [warning] = composed.warnings
    assert re.search(r"loss=cosent replaces what the recipe sets: loss.scale \(.*mine.yaml:7\)", warning)


def test_a_profile_counts_as_chosen_whoever_chooses_it(own):
    chooses = RECIPE.replace("[override /model", "[/profile: smoke, override /model")
    values = compose(["+recipe=mine"], **own(chooses)).values
    assert values["trainer"]["max_steps"] == 3, "chosen by the recipe itself"
    nested = {"profile/ci.yaml": "# @package _global_\ndefaults: [smoke, _self_]\ntrainer: {log_steps: 5}\n"}
    assert trainer(["+recipe=mine", "+profile=ci"], **own(**nested))["max_steps"] == 3, "chosen by another profile"


def test_blocks_for_profiles_of_the_user(own):
    options = own(
        RECIPE + "  team/gpu: {trainer: {precision: bf16}}\n", **{"profile/team/gpu.yaml": "# @package _global_\ntrainer: {device: cuda}\n"}
    )
    assert trainer(["+recipe=mine", "+profile=team/gpu"], **options) == {"seed": 1, "batch_size": 8, "device": "cuda", "precision": "bf16"}


def test_a_primary_config_may_hold_blocks(own):
    text = "defaults:\n  - stpipe_defaults\n  - model: minilm\n  - dataset: docstrings\n  - _self_\nwith_profile: {smoke: {trainer: {seed: 9}}}\n"
    options = own(**{"mine.yaml": text})
    assert trainer(["+profile=smoke"], config_name="mine", **options)["seed"] == 9
    assert "trainer" not in compose([], config_name="mine", **options).values


@pytest.mark.parametrize("profiles", [["offline"], ["smoke"], ["offline", "smoke"], ["smoke", "offline"], []])
def test_hydra_shows_what_is_composed(own, profiles):
    options = own()
    overrides = ["+recipe=mine", *([f"+profile=[{','.join(profiles)}]"] if profiles else []), "trainer.log_steps=3"]
    composed = compose(overrides, **options)
    loader = config_loader(load_schema(), **options)
    shown = OmegaConf.to_container(loader.load_configuration("train", hydra_overrides(overrides, loader), RunMode.RUN))
    assert "with_profile" not in shown
    found = list(leaves(composed.values))
    assert len(found) > 6
    assert [path for path, value in found if at(shown, path) != value] == []


@pytest.mark.parametrize(
    ("block", "key", "message"),
    [
        ("{trainer: {batch_siz: 4}}", "trainer.batch_siz", "unknown key.* Did you mean 'batch_size'?"),
        ("{trianer: {seed: 4}}", "trianer", "Did you mean 'trainer'?"),
        ("{trainer: {seed: four}}", "trainer.seed", "expected an integer >= 0; found 'four'"),
        ("{trainer: {seed: -1}}", "trainer.seed", "expected an integer >= 0; found -1"),
        ("{loss: {scal: 4}}", "loss.scal", "of loss 'mnrl'. Did you mean 'scale'?"),
        ("{loss: {name: mnlr}}", "loss.name", "Did you mean 'mnrl'?"),
        ("{loss: {name: triplet, scale: 3}}", "loss.scale", "unknown key of loss 'triplet'"),
        ("{model: {name: splade}}", "model.name_or_path", "required key is missing"),
        ("{dataset: {max_length: {anchr: 9}}}", "dataset.max_length.anchr", "unknown role. Did you mean 'anchor'?"),
        ("{loss: {name: cosent}}", "loss.name", "'cosent' trains on pair-score"),
    ],
)
def test_mistakes_are_told_whether_the_profile_is_chosen_or_not(own, block, key, message):
    options = own(re.sub(r"  offline:\n.*\n.*\n", f"  offline: {block}\n", RECIPE))
    for overrides, prefix in ((["+recipe=mine"], "with_profile.offline."), (["+recipe=mine", "+profile=smoke"], "with_profile.offline.")):
        found = problems(overrides, **options)
        assert list(found) == [prefix + key]
        assert re.search(message.replace("?", r"\?"), found[prefix + key].message)
        assert found[prefix + key].where.endswith("mine.yaml:5")
    chosen = problems(["+recipe=mine", "+profile=offline"], **options)
    assert list(chosen) == [key]
    if key != "model.name_or_path":  # what is missing has no place of its own
        assert chosen[key].where.endswith("mine.yaml:5")


def test_a_block_is_read_with_what_its_profile_sets(own):
    profile = {"profile/kl.yaml": "# @package _global_\ndefaults: [override /loss: triplet, _self_]\ndataset: {format: triplet}\n"}
    good = own(RECIPE + "  kl: {loss: {triplet_margin: 0.2}}\n", **profile)
    assert load_config(["+recipe=mine"], **good).values["loss"]["name"] == "mnrl"
    assert load_config(["+recipe=mine", "+profile=kl"], **good).values["loss"]["triplet_margin"] == 0.2
    bad = own(RECIPE + "  kl: {loss: {scale: 2}}\n", **profile)
    assert list(problems(["+recipe=mine"], **bad)) == ["with_profile.kl.loss.scale"]
    broken = own(
        RECIPE + "  kl: {loss: {scale: 2}}\n", **{"profile/kl.yaml": "# @package _global_\ndefaults: [override /loss: none_such]\n"}
    )
    assert load_config(["+recipe=mine"], **broken).values["loss"]["name"] == "mnrl"


@pytest.mark.parametrize(
    ("blocks", "key", "message"),
    [
        ("{ofline: {trainer: {seed: 1}}}", "with_profile.ofline", "unknown profile 'ofline'. Did you mean 'offline'?"),
        ("{offline: 3}", "with_profile.offline", "expected a mapping of keys; found 3 (an integer)"),
        ("{offline: null}", "with_profile.offline", "expected a mapping of keys; found None (null)"),
        ("[offline]", "with_profile", "expected a mapping of profiles; found ['offline'] (a list)"),
        ("{offline: {defaults: [override /loss: mnrl]}}", "with_profile.offline.defaults", "name the component instead, like {loss"),
        ("{offline: {imports: [a.b]}}", "with_profile.offline.imports", "list them at the top of the recipe"),
        ("{offline: {with_profile: {}}}", "with_profile.offline.with_profile", "write a block for each profile"),
    ],
)
@pytest.mark.parametrize("profile", [[], ["+profile=offline"]], ids=["alone", "offline"])
def test_what_is_no_block(own, blocks, key, message, profile):
    options = own(re.sub(r"with_profile:\n(.|\n)*", f"with_profile: {blocks}\n", RECIPE))
    found = problems(["+recipe=mine", *profile], **options)
    assert list(found) == [key]
    assert message in found[key].message
    assert found[key].where.endswith("mine.yaml:4")


def test_the_key_itself_misspelt(own):
    found = problems(["+recipe=mine"], **own(RECIPE.replace("with_profile:", "with_profil:")))
    assert "Did you mean 'with_profile'?" in found["with_profil"].message
    assert found["with_profil"].where.endswith("mine.yaml:4")


def test_what_is_wrong_without_a_block_is_not_held_against_it(own):
    found = problems(["+recipe=mine"], **own(RECIPE.replace("seed: 1,", "sede: 1,")))
    assert list(found) == ["trainer.sede"]


def test_a_block_may_name_what_only_the_other_machine_has(own):
    options = own(RECIPE.replace("{batch_size: 24}", "{batch_size: 24}\n    dataset: {cache_dir: /not/here, train: /not/here.jsonl}"))
    assert load_config(["+recipe=mine"], **options).values["dataset"]["train"] == "stdlib://docstrings"
    assert (
        "there is no file" in problems(["+recipe=mine", "+profile=offline", "dataset.embedded=false"], **options)["dataset.train"].message
    )


def test_a_block_that_is_not_used_cannot_break_a_run(own):
    text = RECIPE.replace("{scale: 7}", "{scale: '${oc.decode:${oc.env:STPIPE_NOT_SET}}'}")
    assert load_config(["+recipe=mine"], **own(text)).values["loss"]["scale"] == 20
    assert "STPIPE_NOT_SET is not set" in problems(["+recipe=mine", "+profile=offline"], **own(text))["loss.scale"].message
    assert load_config(["+recipe=mine", "loss={name: cosent}", "dataset.format=pair-score"], **own()).values["loss"]["name"] == "cosent"


@pytest.mark.parametrize(
    ("overrides", "files", "where"),
    [
        (["+recipe=mine", "with_profile.smoke.trainer.seed=3"], {}, "with_profile.smoke.trainer.seed=3"),
        (["+recipe=mine", "+profile=odd"], {"profile/odd.yaml": "# @package _global_\nwith_profile: {smoke: {}}\n"}, "odd.yaml:2"),
        (
            ["+recipe=mine", "loss=odd"],
            {"loss/odd.yaml": "# @package _global_\nwith_profile: {smoke: {}}\nloss: {name: mnrl}\n"},
            "odd.yaml:2",
        ),
    ],
)
def test_elsewhere_than_in_a_recipe_it_is_refused(own, overrides, files, where):
    found = problems(overrides, **own(**files))
    assert list(found) == ["with_profile"]
    assert "only a recipe" in found["with_profile"].message
    assert found["with_profile"].where.endswith(where)


def test_a_block_can_put_a_run_offline_before_anything_is_imported(own):
    options = own(RECIPE.replace("  smoke:\n", "  smoke:\n    offline: true\n"))
    assert _peek(["+recipe=mine", "+profile=smoke"], {}, options["config_dir"]) == ([], True)
    assert _peek(["+recipe=mine"], {}, options["config_dir"]) == ([], False)
