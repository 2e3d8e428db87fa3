"""compose(): overrides in, merged values with their origins out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList
from hydra.core.default_element import ResultDefault
from hydra.types import RunMode
from omegaconf import OmegaConf

from stpipe.config.compose.failures import hydra_failures
from stpipe.config.compose.overrides import APPENDED, HYDRA_SETTINGS, all_options, apply_overrides, normalise, refuse_sweeps, written
from stpipe.config.compose.sources import config_loader, file_of, place_of_choice
from stpipe.config.compose.with_profile import GROUP, KEY, Blocks, block_values, problems_of_block
from stpipe.config.errors import ConfigError, Problem
from stpipe.config.interpolate import resolve_interpolations
from stpipe.config.layers import Tree, drop_group
from stpipe.config.locations import configs_dir, recipes_dir
from stpipe.config.offline import go_offline
from stpipe.config.options import ROOT_OPTION, option_values
from stpipe.config.origins import Origins, Path, dotted
from stpipe.config.schema import Schema, load_schema
from stpipe.config.yaml_file import display, read_yaml

SAVED_CONFIG = "config.yaml"


@dataclass(frozen=True)
class Layer:
    """What one file, block or component sets, below `package`.

    places: paths below `package` -> where; whole: what to call a layer that makes a whole run and so gives way to the
    groups chosen on the command line, else empty; profile: its name if it is one; block: of which profile it is a block.
    """

    values: dict[str, Any]
    places: dict[Path, str]
    package: Path = ()
    whole: str = ""
    profile: str | None = None
    block: str | None = None


@dataclass
class Composed:
    """A composition before decoding.

    values: what files and overrides set, without defaults; origins: where; choices: config group -> option(s) chosen;
    problems: what the decoder cannot see (failed interpolations); warnings: settings that were dropped; schema: what it
    is to be decoded by (knows the components of `imports`);
    repeats: the `run` section of the saved configuration that is run again; recipe_alone: composes the recipe without
    anything else, gives None where there is none.
    """

    values: dict[str, Any]
    origins: Origins
    choices: dict[str, Any]
    schema: Schema
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    repeats: dict[str, Any] | None = None
    recipe_alone: Callable[[], Composed | None] = lambda: None

    @property
    def recipe(self) -> str | None:
        return self.choices.get("recipe")


def compose(
    overrides: Sequence[str],
    *,
    config_dir: str | None = None,
    config_path: str | None = None,
    config_name: str = "train",
    from_dir: str | None = None,
) -> Composed:
    """Compose a run.

    Args:
        overrides: Hydra overrides.
        config_dir: a folder of the user's own groups and recipes; its files win over stpipe's.
        config_path: replaces stpipe's configs folder.
        config_name: the primary config.
        from_dir: a run directory (or its config.yaml), whose configuration everything else is laid over.
    """
    base = _saved_config(from_dir) if from_dir is not None else ({}, {})
    imports, offline = _peek(overrides, base[0], config_dir)
    if imports and offline:
        go_offline()
    schema = load_schema(imports)
    loader = config_loader(schema, config_dir=config_dir, config_path=config_path)
    appended: list[str] = []
    with hydra_failures(loader, appended):
        parsed = normalise(overrides, loader)
        appended += [f"{o.key_or_group}/{name}" for o in parsed if o.key_or_group in APPENDED for name in _names(o.value())]
        texts = [o.input_line or "" for o in parsed]
        refuse_sweeps(parsed)
        defaults = loader.compute_defaults_list(config_name=config_name, overrides=[*HYDRA_SETTINGS, *texts], run_mode=RunMode.RUN)
        chosen = {o.key_or_group: written(o) for o in parsed if o not in defaults.config_overrides and not o.is_hydra_override()}
        if from_dir is not None and "recipe" in chosen:
            raise ConfigError(Problem("recipe", "a saved configuration is whole already; leave the recipe out", chosen["recipe"]))
        blocks = Blocks(all_options(loader, GROUP))
        layers = [Layer(base[0], base[1], whole="the saved run"), *_layers(loader, schema, defaults, chosen, blocks)]
    tree = _lay(layers, schema, chosen)
    problems = [*blocks.problems, *_unused_blocks(blocks, loader, schema, config_name, [t for t in texts if t.startswith("+recipe=")])]
    problems += apply_overrides(tree, [o for o in defaults.config_overrides if not o.is_hydra_override()])
    problems += _out_of_place(tree)
    choices: dict[str, Any] = {k: v for k, v in defaults.overrides.known_choices.items() if not k.startswith("hydra/")}
    choices.update({o.key_or_group: o.value() for o in parsed if o.key_or_group in APPENDED})
    problems += resolve_interpolations(tree.values, schema, tree.origins)
    repeats = base[0].get("run", {}) if from_dir is not None else None
    if from_dir is not None and continues(overrides):
        repeats = None
        _continue_in(tree, from_dir)
    alone = partial(_recipe_alone, loader, schema, config_name, [t for t in texts if t.startswith("+recipe=")], blocks)
    return Composed(tree.values, tree.origins, choices, schema, problems, tree.warnings, repeats, alone)


def open_loader(overrides: Sequence[str], *, config_dir: str | None = None, config_path: str | None = None) -> ConfigLoaderImpl:
    """Hydra's loader for these overrides; it knows the components of the user modules that they import."""
    imports, offline = _peek(overrides, {}, config_dir)
    if imports and offline:
        go_offline()
    return config_loader(load_schema(imports), config_dir=config_dir, config_path=config_path)


def continues(overrides: Sequence[str]) -> bool:
    """Whether overrides ask to go on with a run: with --from it then stays where it is, instead of being repeated elsewhere."""
    values = [value for key, _, value in (text.lstrip("+").partition("=") for text in overrides) if key == "trainer.resume"]
    return bool(values) and values[-1].strip("'\"") != "never"


def _continue_in(tree: Tree, from_dir: str) -> None:
    """The directory of a run that goes on is the one that was named, wherever it was when it began."""
    if tree.origins.places.get(("run", "dir"), "").startswith("run.dir="):
        return  # given anew
    file = FilePath(from_dir)
    tree.values.setdefault("run", {})["dir"] = str(file if file.is_dir() else file.parent)


def _names(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]


def _saved_config(from_dir: str) -> tuple[dict[str, Any], dict[Path, str]]:
    file = FilePath(from_dir)
    file = file / SAVED_CONFIG if file.is_dir() else file
    if not file.is_file():
        raise ConfigError(Problem("", f"'{from_dir}' holds no {SAVED_CONFIG}; name a run directory", "--from"))
    return read_yaml(file)


def _peek(overrides: Sequence[str], saved: dict[str, Any], config_dir: str | None) -> tuple[list[str], bool]:
    """(`imports`, `offline`) as far as overrides, recipe, profiles or a saved configuration tell.

    User modules must be known before anything can be composed, and the offline switches set before they are imported.
    """
    imports = list(saved.get("imports") or [])
    offline = saved.get("offline") is True
    folders = ([FilePath(config_dir)] if config_dir else []) + [configs_dir()]
    files = [f / "train.yaml" for f in folders]
    profiles: list[str] = []
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key == "imports":
            imports += _modules(value)
        elif key == "offline":
            offline = value.lower() == "true"
        elif key in APPENDED:
            names = value.strip("[]").split(",")
            profiles += names if key == GROUP else []
            for name in names:
                places = [f / key / f"{name}.yaml" for f in folders] + ([recipes_dir() / f"{name}.yaml"] if key == "recipe" else [])
                files += [p for p in places if p.is_file()][:1]
    for file in files:
        values = read_yaml(file)[0] if file.is_file() else {}
        imports += values["imports"] if isinstance(values.get("imports"), list) else []
        offline = offline or any(v.get("offline") is True for v in (values, *block_values(values, profiles)))
    return list(dict.fromkeys(name for name in imports if isinstance(name, str))), offline


def _modules(text: str) -> list[Any]:
    """What an override of `imports` says, as far as it can be read; what is wrong with it is found later."""
    try:
        names = yaml.safe_load(text) if text else []
    except (yaml.YAMLError, ValueError, RecursionError):
        return []
    return names if isinstance(names, list) else [names]


def _layers(loader: ConfigLoaderImpl, schema: Schema, defaults: DefaultsList, chosen: dict[str, str], blocks: Blocks) -> list[Layer]:
    """The layers that the defaults list asks for, in its order, and after each profile the blocks that are for it."""
    found: list[Layer] = []
    for default in defaults.defaults:
        if not default.config_path or default.config_path.startswith("hydra/"):
            continue
        containing = defaults.overrides.override_metadata.get(default.override_key or "")
        chooser = (containing.containing_config_path if containing else None) or default.parent
        layer = _layer(loader, schema, default, chooser, chosen)
        if layer is None:
            continue
        if default.primary or layer.whole:
            blocks.take(layer.values, layer.places)
        found.append(layer)
        found += [Layer(b.values, b.places, whole="the recipe", block=b.profile) for b in blocks.due(layer.profile)]
    return found


def _layer(loader: ConfigLoaderImpl, schema: Schema, default: ResultDefault, chooser: str | None, chosen: dict[str, str]) -> Layer | None:
    """One entry of the defaults list: a file, or a component that has none; None for what sets nothing."""
    config_path = str(default.config_path)
    package: Path = tuple(default.package.split(".")) if default.package else ()
    result = loader.repository.load_config(config_path) if config_path != ROOT_OPTION else None
    if result is None:
        return None
    group, _, name = config_path.partition("/")
    profile = name if group == GROUP else None
    if result.provider == "options":
        group, _, name = config_path.rpartition("/")
        place = chosen.get(group) or (place_of_choice(loader, chooser, group, name) if chooser else "")
        values = option_values(schema, group, name, defaults=False) or {}
        return Layer(values, _one_place(values, place), package)
    values, places = _content(result, config_path)
    values.pop("defaults", None)
    if not package:
        values.pop("hydra", None)
        return Layer(values, places, whole="the recipe" if group == "recipe" else "", profile=profile)
    return Layer(values, places, package, profile=profile) if values else None


def _content(result: Any, config_path: str) -> tuple[dict[str, Any], dict[Path, str]]:
    """Values and places of a config; one that Hydra found elsewhere than in a file (`pkg://`) has its name for a place."""
    file = file_of(result, config_path)
    if file is not None:
        values, places = read_yaml(file)
        return values, {(): display(file), **places}
    plain: Any = OmegaConf.to_container(result.config)
    return plain, {(): config_path}


def _lay(layers: Sequence[Layer], schema: Schema, chosen: dict[str, str]) -> Tree:
    """The layers merged; of what a recipe, its blocks or a saved run set themselves, the keys of chosen groups are dropped."""
    tree = Tree(schema)
    for layer in layers:
        values = dict(layer.values)
        for group, text in chosen.items() if layer.whole else ():
            gone = drop_group(values, group)
            if gone:
                keys = ", ".join(f"{dotted(p)} ({layer.places.get(p, layer.whole)})" for p in gone)
                tree.warnings.append(f"{text} replaces what {layer.whole} sets: {keys}")
        tree.merge(values, layer.places, layer.package)
    return tree


def _unused_blocks(blocks: Blocks, loader: ConfigLoaderImpl, schema: Schema, config_name: str, recipe: list[str]) -> list[Problem]:
    """What is wrong in blocks of profiles that are not chosen, found by composing the recipe with each of these profiles.

    What else the command line says is left out: the author of a block wrote it for the recipe and the profile.
    """
    found: list[Problem] = []
    for profile in dict.fromkeys(block.profile for block in blocks.waiting):
        try:
            with hydra_failures(loader, []):
                overrides = [*HYDRA_SETTINGS, *recipe, f"+profile=[{profile}]"]
                defaults = loader.compute_defaults_list(config_name=config_name, overrides=overrides, run_mode=RunMode.RUN)
                layers = _layers(loader, schema, defaults, {}, Blocks(blocks.known))
        except ConfigError:  # the profile itself is broken, which is its own affair as long as nobody chooses it
            continue
        without = _lay([layer for layer in layers if layer.block != profile], schema, {})
        places = [
            place for block in blocks.waiting if block.profile == profile for place in (block.places.get((), ""), *block.places.values())
        ]
        found += problems_of_block(profile, _lay(layers, schema, {}), without=without, places=places)
    return found


def _recipe_alone(loader: ConfigLoaderImpl, schema: Schema, config_name: str, recipe: list[str], blocks: Blocks) -> Composed | None:
    """The recipe without anything else that the command line says; None without a recipe, or when it is none by itself."""
    if not recipe:
        return None
    try:
        with hydra_failures(loader, []):
            defaults = loader.compute_defaults_list(config_name=config_name, overrides=[*HYDRA_SETTINGS, *recipe], run_mode=RunMode.RUN)
            tree = _lay(_layers(loader, schema, defaults, {}, Blocks(blocks.known)), schema, {})
    except ConfigError:
        return None
    if resolve_interpolations(tree.values, schema, tree.origins):
        return None
    return Composed(tree.values, tree.origins, {"recipe": recipe[0].partition("=")[2]}, schema)


def _out_of_place(tree: Tree) -> list[Problem]:
    """Blocks by profile that stand elsewhere than in a recipe; they are taken out."""
    if KEY not in tree.values:
        return []
    place = tree.origins.where((KEY,))
    tree.delete((KEY,))
    return [Problem(KEY, "only a recipe (or the primary config) says what holds with a profile; set the keys themselves here", place)]


def _one_place(values: Any, place: str, path: Path = ()) -> dict[Path, str]:
    places = {path: place}
    for key, inner in values.items() if isinstance(values, dict) else ():
        places.update(_one_place(inner, place, (*path, key)))
    return places
