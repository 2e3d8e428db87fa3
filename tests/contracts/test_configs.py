"""Every shipped YAML composes and validates, and every single mistake in one is refused with the right suggestion."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from stpipe.config.catalog import catalog
from stpipe.config.compose import compose
from stpipe.config.compose.with_profile import problems_of_block
from stpipe.config.decode import elsewhere, has_type
from stpipe.config.errors import ConfigError
from stpipe.config.layers import Tree
from stpipe.config.load import load_composed, load_config
from stpipe.config.locations import configs_dir, recipes_dir
from stpipe.config.origins import at, dotted, leaves
from stpipe.config.resolve import name_components
from stpipe.config.schema import component, definition, load_schema, slot_group
from stpipe.config.suggest import edit_distance
from stpipe.config.yaml_file import header_line, read_yaml, write_yaml

RECIPES = sorted(p.relative_to(recipes_dir()).with_suffix("").as_posix() for p in recipes_dir().rglob("*.yaml"))
PRESETS = sorted(
    p.relative_to(configs_dir()).with_suffix("").as_posix() for p in configs_dir().rglob("*.yaml") if p.parent != configs_dir()
)
PROFILES = ([], ["+profile=offline"], ["+profile=smoke"], ["+profile=offline", "+profile=smoke"])
#: What a preset of a group needs beside it to be a whole run.
AROUND = {
    "model": ["dataset=docstrings"],
    "dataset": ["model=minilm"],
    "loss": ["model=minilm", "dataset=docstrings"],
    "evaluator/sts": ["model=minilm", "dataset=docstrings", "dataset.format=pair-score"],
    "evaluator/sparse_retrieval": ["model=splade_distilbert", "dataset=docstrings"],
    "evaluator/rerank": ["model=minilm_reranker", "dataset=docstrings", "dataset.format=query-documents"],
    "evaluator/rerank_nano_beir": ["model=minilm_reranker", "dataset=docstrings", "dataset.format=query-documents"],
    "evaluator/pair_scores": ["model=minilm_reranker", "dataset=docstrings", "dataset.format=pair-score"],
    "evaluator/pair_classes": ["model=minilm_reranker", "model.num_labels=3", "dataset=docstrings", "dataset.format=pair-class"],
    "loss/cached_splade": ["model=splade_distilbert", "dataset=docstrings"],
    "loss/splade_inference_free": ["model=splade_inference_free_distilbert", "dataset=docstrings"],
    "loss/splade_margin_mse": ["model=splade_distilbert", "dataset=docstrings", "dataset.format=triplet-score"],
}
#: Recipes with blocks by profile.
BLOCKS = [name for name in RECIPES if "with_profile" in read_yaml(recipes_dir() / f"{name}.yaml")[0]]
HEADER = ("Data", "Hardware", "Expected", "Time", "Command")


def test_how_many_files_there_are():
    assert {
        "dense_quickstart",
        "mnrl_all_nli",
        "cosent_stsb",
        "matryoshka_all_nli",
        "triplet_all_nli",
        "multi_dataset",
        "mnrl_gooaq",
        "splade_nq",
    } <= set(RECIPES)
    assert len(PRESETS) >= 50
    assert BLOCKS
    assert len(RECIPES) + len(PRESETS) + 1 == len([*recipes_dir().rglob("*.yaml"), *configs_dir().rglob("*.yaml")])


@pytest.mark.parametrize("profile", PROFILES, ids=["alone", "offline", "smoke", "both"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_composes_and_validates(recipe, profile):
    loaded = load_config([f"+recipe={recipe}", *profile])
    assert loaded.recipe == recipe
    assert loaded.metrics, "a recipe has an evaluator"
    best = loaded.values["trainer"]["best_metric"]
    # A run that is steered to a number of words keeps its last weights: earlier ones are not there yet. So does one that is too short to
    # be evaluated in between.
    steered = (loaded.values["loss"] or {}).get("document_active_dims")
    assert best in loaded.metrics or (best is None and (steered or loaded.values["trainer"]["eval_steps"] is None or len(profile) > 1))
    if "+profile=offline" in profile:
        assert_no_hub(loaded.values)
    if "+profile=smoke" in profile:
        assert loaded.values["trainer"]["max_steps"] <= 5
        sections = loaded.values["dataset"]["sources"].values() or [loaded.values["dataset"]]
        assert all(section["max_rows"] <= 256 and section["eval_rows"] <= 64 for section in sections)


def assert_no_hub(values):
    assert values["offline"] is True
    assert values["model"]["name_or_path"].startswith("package://")
    for section in values["dataset"]["sources"].values() or [values["dataset"]]:
        assert section["train"].startswith("stdlib://")
        assert section["eval"] is None


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_composes_and_validates(preset):
    group, _, name = preset.partition("/")
    if group == "profile":
        overrides = [f"+profile={name}", "+recipe=dense_quickstart"]
    else:
        overrides = [*AROUND.get(preset, AROUND.get(group, AROUND["loss"])), f"{group}={name}"]
    loaded = load_config(overrides)
    assert loaded.choices[group] in (name, [name])
    assert header_line(configs_dir() / f"{preset}.yaml"), "the first comment is what `stpipe list` shows"


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_header_says_what_one_needs_to_know(recipe):
    comments = [line for line in (recipes_dir() / f"{recipe}.yaml").read_text().splitlines() if line.startswith("#")]
    for word in HEADER:
        assert any(line.startswith(f"# {word:<9}") for line in comments), f"no '{word}'"
    assert f"+recipe={recipe}" in "".join(comments)


# ---- one-edit fuzz ---------------------------------------------------------------------------------------------------


def edits(word):
    """One deletion, one substitution, one swap and one insertion."""
    middle = len(word) // 2
    swapped = word[:middle] + word[middle + 1 : middle + 2] + word[middle] + word[middle + 2 :]
    return {word[:middle] + word[middle + 1 :], word[:middle] + "q" + word[middle + 1 :], swapped, word + "x"} - {word, ""}


def schema_at(composed, path):
    """Schema of a key path; a slot stands for the component that is chosen there."""
    tree = Tree(composed.schema)
    tree.values = name_components(composed.values, composed.schema)
    node = composed.schema
    for i, part in enumerate(path):
        node = tree._child(node, part, path[:i])
    group = slot_group(composed.schema, node)
    name = at(tree.values, (*path, "name"))
    return component(composed.schema, group, name) if group and name else definition(composed.schema, node)


def known_keys(composed, path):
    """Keys that may stand beside the last one of a path; None where the user is free to name them."""
    node = schema_at(composed, path[:-1])
    return list(node["properties"]) if "properties" in node else None


def paths_of(values, path=()):
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from paths_of(value, (*path, key))


def mutated(composed, path, *, key=None, value=None):
    """The composition with one key renamed or one value replaced."""
    changed = copy.copy(composed)
    changed.values = copy.deepcopy(composed.values)
    changed.origins = copy.deepcopy(composed.origins)
    parent = at(changed.values, path[:-1], changed.values)
    if key is None:
        parent[path[-1]] = value
    else:
        parent[key] = parent.pop(path[-1])
        for old, place in list(changed.origins.places.items()):
            if old[: len(path)] == path:
                changed.origins.places[(*path[:-1], key, *old[len(path) :])] = place
    return changed


def refused(composed):
    with pytest.raises(ConfigError) as caught:
        load_composed(composed)
    assert caught.value.exit_code == 2
    return {p.key: p for p in caught.value.problems}


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_key_misspelt_is_refused_with_the_right_one(recipe):
    composed = compose([f"+recipe={recipe}"])
    count = 0
    for path in paths_of(composed.values):
        known = known_keys(composed, path)
        if known is None:
            continue  # names that the user gives: evaluators, data sets; roles have a rule and a test of their own
        for wrong in sorted(edits(path[-1])):
            if wrong in known:
                continue
            problem = refused(mutated(composed, path, key=wrong)).get(dotted((*path[:-1], wrong)))
            if path[-1] == "name":  # without its name nothing else about a component can be said
                problem = problem or refused(mutated(composed, path, key=wrong))[dotted(path[:-1])]
            assert problem is not None, (path, wrong)
            best = min(edit_distance(wrong, k) for k in known)
            right = [k for k in known if edit_distance(wrong, k) == best]
            assert path[-1] in right
            assert any(f"'{k}'" in problem.message for k in right) or wrong in elsewhere_keys(composed), (path, wrong, problem.message)
            assert problem.where, (path, wrong)
            count += 1
    assert count > 40


def elsewhere_keys(composed):
    return {k for k in ("eval", "train", "loss") if elsewhere(composed.schema, k)}


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_value_of_a_wrong_type_is_refused(recipe):
    composed = compose([f"+recipe={recipe}"])
    count = 0
    for path in paths_of(composed.values):
        value = at(composed.values, path)
        for wrong in ({"q": {}}, 3.25, "qq-q", True, [["q"]]):
            if type(wrong) is type(value) or (isinstance(wrong, float) and isinstance(value, (int, float)) and not isinstance(value, bool)):
                continue
            if allows(composed, path, wrong):
                continue
            found = refused(mutated(composed, path, value=wrong))
            assert [key for key in found if key.startswith(dotted(path))], (path, wrong, list(found))
            count += 1
    assert count > 60


def allows(composed, path, value):
    """True when the schema says that a key takes values of this type, too."""
    node = schema_at(composed, path)
    options = [definition(composed.schema, o) for o in node.get("anyOf", [node])]
    return any(has_type(value, o.get("type", "")) and "enum" not in o and "properties" not in o for o in options)


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_required_key_removed_is_refused(recipe):
    composed = compose([f"+recipe={recipe}"])
    removed = []
    for path in paths_of(composed.values):
        if path[-1] not in schema_at(composed, path[:-1]).get("required", ()):
            continue
        without = mutated(composed, path, value=None)
        del at(without.values, path[:-1], without.values)[path[-1]]
        if at(name_components(without.values, without.schema), path) is not None:
            continue  # the name of a component has a default
        found = refused(without)
        assert [k for k, p in found.items() if "required" in p.message], (path, list(found))
        removed.append(dotted(path))
    assert "model" in removed
    assert "model.name_or_path" in removed


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_and_option_names_misspelt(recipe, tmp_path):
    """Names of options, in the recipe's own defaults list and on the command line."""
    for wrong in sorted(edits(recipe)):
        with pytest.raises(ConfigError, match=f"unknown recipe '{wrong}'. Did you mean '{recipe}'"):
            compose([f"+recipe={wrong}"])
    text = (recipes_dir() / f"{recipe}.yaml").read_text()
    entries = [e for e in read_yaml(recipes_dir() / f"{recipe}.yaml")[0]["defaults"] if isinstance(e, dict)]
    assert entries
    (tmp_path / "recipe").mkdir()
    for entry in entries:
        (key, option), group = next(iter(entry.items())), next(iter(entry)).split("/")[-1]
        for wrong in sorted(edits(option))[:2]:
            if wrong in catalog(load_schema(), group):
                continue
            Path(tmp_path, "recipe", "broken.yaml").write_text(text.replace(f"{key}: {option}\n", f"{key}: {wrong}\n"))
            with pytest.raises(ConfigError) as caught:
                load_config(["+recipe=broken"], config_dir=str(tmp_path))
            problem = caught.value.problems[0]
            assert problem.key == group
            assert suggested(problem.message, wrong, option, catalog(load_schema(), group))
            assert "broken.yaml:" in problem.where
            with pytest.raises(ConfigError) as caught:
                compose([f"{group}={wrong}"])
            assert suggested(caught.value.problems[0].message, wrong, option, catalog(load_schema(), group))


def suggested(message, wrong, option, options):
    """The option itself, or another that is as near to what was written."""
    near = [o for o in options if edit_distance(o, wrong) <= edit_distance(option, wrong)]
    return any(f"Did you mean '{o}'?" in message for o in near)


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_line_of_a_recipe_misspelt_names_its_line(recipe, tmp_path):
    """The whole way from an edited file: the place is the edited line."""
    file = recipes_dir() / f"{recipe}.yaml"
    lines = file.read_text().splitlines()
    values, places = read_yaml(file)
    composed = compose([f"+recipe={recipe}"])
    (tmp_path / "recipe").mkdir()
    checked = 0
    # A few lines are enough here: each key is covered above, this is about the way from the file.
    for path in list(paths_of({k: v for k, v in values.items() if k not in ("defaults", "with_profile")}))[1::4]:
        known = known_keys(composed, path)
        number = int(places[path].rpartition(":")[2]) - 1
        wrong = path[-1][:-1] + "q"
        if known is None or f"{path[-1]}:" not in lines[number] or path[-1] == "name":
            continue
        broken = [*lines]
        broken[number] = broken[number].replace(f"{path[-1]}:", f"{wrong}:", 1)
        Path(tmp_path, "recipe", "broken.yaml").write_text("\n".join(broken) + "\n")
        with pytest.raises(ConfigError) as caught:
            load_config(["+recipe=broken"], config_dir=str(tmp_path))
        problem = next(p for p in caught.value.problems if p.key == dotted((*path[:-1], wrong)))
        assert problem.where.endswith(f"broken.yaml:{number + 1}")
        assert f"'{path[-1]}'" in problem.message
        checked += 1
    assert checked >= 2


# ---- the same for blocks by profile: whoever chooses the profile must not be the first to see a mistake -------------------------


def paths_in_blocks(recipe):
    return list(paths_of({"with_profile": read_yaml(recipes_dir() / f"{recipe}.yaml")[0]["with_profile"]}))


def edited(folder, recipe, path, key):
    """A copy of a recipe as `broken`, with one key of its blocks renamed."""
    values = read_yaml(recipes_dir() / f"{recipe}.yaml")[0]
    parent = at(values, path[:-1], values)
    parent[key] = parent.pop(path[-1])
    (folder / "recipe").mkdir(exist_ok=True)
    Path(folder, "recipe", "broken.yaml").write_text("# @package _global_\n" + write_yaml(values))


@pytest.mark.parametrize("recipe", BLOCKS)
def test_each_key_of_a_block_misspelt_is_refused_though_its_profile_is_not_chosen(recipe, tmp_path):
    """From the file on, with one slip a key; all slips are below."""
    paths = paths_in_blocks(recipe)
    for path in paths:
        if path[-2:-1] == ("groups",):
            continue  # names that the user gives
        wrong = min(edits(path[-1]))
        edited(tmp_path, recipe, path, wrong)
        with pytest.raises(ConfigError) as caught:
            load_config(["+recipe=broken"], config_dir=str(tmp_path))
        problem = {p.key: p for p in caught.value.problems}[dotted((*path[:-1], wrong))]
        assert f"'{path[-1]}'" in problem.message
        assert "broken.yaml:" in problem.where
    assert len(paths) >= 3


def trees(recipe, profile):
    """The compositions with a profile, and with it but without the recipe's block for it."""
    composed = compose([f"+recipe={recipe}", f"+profile={profile}"])
    blocks = read_yaml(recipes_dir() / f"{recipe}.yaml")[0]["with_profile"]
    bare = Tree(composed.schema)
    bare.values = copy.deepcopy(composed.values)
    for path, _ in leaves(blocks[profile]):
        bare.delete(path)
    return composed, bare


@pytest.mark.parametrize("recipe", BLOCKS)
def test_every_slip_and_every_wrong_type_in_a_block_is_refused(recipe):
    count = 0
    for profile, block in read_yaml(recipes_dir() / f"{recipe}.yaml")[0]["with_profile"].items():
        composed, bare = trees(recipe, profile)
        for path in paths_of(block):
            known = known_keys(composed, path)
            for wrong in sorted(edits(path[-1]) - set(known)) if known is not None else ():
                changed = mutated(composed, path, key=wrong)
                key = dotted((*path[:-1], wrong))
                assert refused(changed)[key].where
                assert f"'{path[-1]}'" in unused(changed, bare, profile)[f"with_profile.{profile}.{key}"]
                count += 1
            value = at(composed.values, path)
            for wrong in ({"q": {}}, 3.25, "qq-q", True, [["q"]]):
                if type(wrong) is type(value) or (isinstance(wrong, float) and isinstance(value, int)) or allows(composed, path, wrong):
                    continue
                changed = mutated(composed, path, value=wrong)
                for found in (
                    refused(changed),
                    {k.removeprefix(f"with_profile.{profile}."): m for k, m in unused(changed, bare, profile).items()},
                ):
                    assert [k for k in found if k.startswith(dotted(path))], (path, wrong, list(found))
                count += 1
    assert count >= 12


def unused(changed, bare, profile):
    """Key -> message of what is told of a block whose profile is not chosen."""
    tree = Tree(changed.schema)
    tree.values, tree.origins = changed.values, changed.origins
    return {p.key: p.message for p in problems_of_block(profile, tree, without=bare, places=["here"])}
