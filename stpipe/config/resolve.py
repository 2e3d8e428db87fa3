"""Defaults that depend on other keys: which component stands where none is named, the name and place of the run.

Two steps. `name_components` runs before decoding and only adds names, so that `optimizer.lr=1e-4` or
`sampler.mixing=weighted` work without choosing the component too. `settle` runs on decoded values.

The offline profile needs no knowledge of a recipe: it sets `dataset.embedded`, and `settle` puts the docstring pairs in the
place of every data set, in the format that the data set declares. What it takes the place of is reported as a warning.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from stpipe.config.data_format import STANDARD_LIBRARY, embedded_address, known_format, sources
from stpipe.config.defaults import OWN_LOSSES, defaults_of
from stpipe.config.errors import Problem
from stpipe.config.mining import embed_models, format_in_training
from stpipe.config.options import object_defaults
from stpipe.config.origins import Origins, Path, at
from stpipe.config.redact import redact_secrets
from stpipe.config.schema import Schema, component
from stpipe.config.slurm import under_slurm
from stpipe.config.teaching import embed_teachers, format_when_taught, untaught_format

FIXED = {"model": "dense", "optimizer": "adamw", "scheduler": "linear"}
#: Keys that do not change what is trained, so they have no part in the derived name of a run.
NAMELESS = (
    "run",
    "card",
    "tracker",
    "export",
    "publish",
    "slurm",
    "imports",
    "trainer.resume",
    "trainer.progress",
    "trainer.preempt_signals",
    "trainer.grace_period",
    "dataset.cache_dir",
    "dataset.num_proc",
    "mine.cache_dir",
    "mine.output",
)
BY_ROLE = ("max_length", "prompts", "routes")
REPLACED = ("train", "eval", "columns", "joins", "subset", "split", "eval_split", "eval_format", "revision")


def name_components(values: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """The composed values with the default name in each component that has keys but no name, or is not there at all."""
    named = copy.deepcopy(dict(values))
    for group, name in FIXED.items():
        if group != "model" or isinstance(named.get("model"), dict):
            _give_name(named, group, name)
    _give_name(named, "backend", "single" if at(named, ("backend", "num_processes")) is None else "ddp")
    model = component(schema, "model", at(named, ("model", "name"))) or {}
    defaults = defaults_of(model.get("x-kind", "dense"), model.get("x-sparsity"))
    sections = list(sources(named.get("dataset", {})))
    mine = named.get("mine") if isinstance(named.get("mine"), dict) else None
    mine_defaults = object_defaults(schema, schema["$defs"]["MineSection"]) if mine is not None else {}
    for name, _, section in sections:
        teacher = section.get("teacher") or at(named, ("dataset", "teacher"))
        fmt = format_when_taught(format_in_training(section, mine, mine_defaults), teacher)
        loss = defaults.get(fmt or "")
        if loss and name != "default" and named.get("loss") is None and isinstance(section, dict):
            _give(section, "loss", loss)
        elif loss and name == "default":
            _give(named, "loss", loss)
    for loss in (named.get("loss"), *(section.get("loss") for _, _, section in sections)):
        _own_loss(schema, loss, OWN_LOSSES.get(model.get("x-kind", ""), {}))
        _complete(schema, loss)
    _give_name(named, "strategy", "recompute" if _cached(at(named, ("loss", "name"))) else "auto")
    losses = [_loss_of(named, section) for _, _, section in sections]
    _give_name(named, "sampler", _sampler(schema, losses))
    return named


def _give_name(values: dict[str, Any], key: str, name: str) -> None:
    _give(values, key, {"name": name})


def _give(values: dict[str, Any], key: str, component: Mapping[str, Any]) -> None:
    """Put a component where there is none, or under the keys of one that has no name; the same for the components inside it."""
    current = values.get(key)
    if current is None:
        values[key] = copy.deepcopy(dict(component))
    elif isinstance(current, dict) and "name" not in current and not any(_like_name(k) for k in current):
        values[key] = {**component, **current}
        for inner, default in component.items():
            if isinstance(default, Mapping):
                values[key][inner] = current.get(inner)
                _give(values[key], inner, default)


def _complete(schema: Schema, loss: Any) -> None:
    """Name the inner loss of a wrapper that has a default one, where only keys of it are set (`loss.loss.scale=2`)."""
    if not isinstance(loss, dict):
        return
    facts = component(schema, "loss", loss.get("name")) or {}
    for field in facts.get("x-wraps") or []:
        default = facts["properties"][field].get("default")
        if isinstance(default, Mapping) and isinstance(loss.get(field), dict):
            _give(loss, field, default)
        for _, part in _parts(field, loss.get(field)):
            _complete(schema, part)


def _own_loss(schema: Schema, loss: Any, own: Mapping[str, str]) -> None:
    """Where a documented name means another loss for this kind of model, put that one's name; also inside wrappers."""
    facts = component(schema, "loss", loss.get("name")) if isinstance(loss, dict) and own else None
    if facts is None:
        return
    loss["name"] = own.get(facts["x-name"], loss["name"])
    for field in facts.get("x-wraps") or []:
        for _, part in _parts(field, loss.get(field)):
            _own_loss(schema, part, own)


def _like_name(key: str) -> bool:
    """A misspelt `name`: left alone, so that the decoder reports it."""
    return len(key) in (3, 4, 5) and sorted(set(key) & set("name")) in (
        sorted("name"),
        sorted("nam"),
        sorted("ame"),
        sorted("nme"),
        sorted("nae"),
    )


def _cached(name: Any) -> bool:
    """The documented Cached... losses are the plain formula, computed in pieces."""
    return isinstance(name, str) and name.lower().startswith("cached")


def _loss_of(values: Mapping[str, Any], section: Mapping[str, Any]) -> Any:
    return section.get("loss") or values.get("loss")


def _sampler(schema: Schema, losses: list[Any]) -> str:
    """In-batch negatives must not be duplicates of the positive; losses over classes need two texts of a class."""
    facts = [component(schema, "loss", name) or {} for loss in losses for _, name in inner_losses(schema, loss)]
    if any(f.get("x-coupling") == "anchor" for f in facts):
        return "no_duplicates"
    return "group_by_label" if facts and all(f.get("x-formats") == ["labelled-text"] for f in facts) else "random"


def inner_losses(schema: Schema, loss: Any, *, wrappers: bool = False) -> list[tuple[Path, str]]:
    """(key path below the loss, name) of each loss inside wrappers, or of the loss itself; with `wrappers` of those, too."""
    if not isinstance(loss, Mapping) or not isinstance(loss.get("name"), str):
        return []
    facts = component(schema, "loss", loss["name"]) or {}
    wraps = facts.get("x-wraps") or []
    found: list[tuple[Path, str]] = [] if wraps and not wrappers else [((), loss["name"])]
    for field in wraps:
        value = loss.get(field) or facts["properties"][field].get("default")
        for path, part in _parts(field, value):
            found += [((*path, *inner), name) for inner, name in inner_losses(schema, part, wrappers=wrappers)]
    return found


def _parts(field: str, value: Any) -> list[tuple[Path, Any]]:
    """The losses in a field of a wrapper: one, or named terms that each hold one."""
    if not isinstance(value, Mapping) or "name" in value:
        return [((field,), value)]
    return [((field, key, "loss"), term.get("loss")) for key, term in value.items() if isinstance(term, Mapping)]


def settle(
    values: dict[str, Any], given: Mapping[str, Any], origins: Origins, *, recipe: str | None, repeats: Mapping[str, Any] | None
) -> tuple[list[Problem], list[str]]:
    """Fill in, in place, what follows from the decoded values; returns (problems, warnings).

    Args:
        values: decoded.
        given: what was set before decoding, to tell a set key from a default.
        origins: for the values that came from the environment, which are not hashed as they are.
        recipe: of the run.
        repeats: the `run` section of a saved configuration that is run again.
    """
    _inherit(values["dataset"], at(given, ("dataset",), {}))
    problems, warnings = _embed(values["dataset"], origins) if values["dataset"]["embedded"] else ([], [])
    warnings += [*embed_models(values, origins), *embed_teachers(values, origins)]
    under_slurm(values, given, os.environ)
    run = values["run"]
    if repeats is not None and run["name"] == repeats.get("name"):
        run["name"] = f"{run['name']}-repeat"
        if run["dir"] == repeats.get("dir"):
            run["dir"] = f"{run['dir']}-repeat"
    run["name"] = run["name"] or derived_name(values, origins)
    run["dir"] = run["dir"] or str(PurePath("outputs", recipe or "custom", run["name"]))
    return problems, warnings


def _inherit(dataset: dict[str, Any], given: Any) -> None:
    """Keys at the top of `dataset` are the defaults of the same keys of each of its sources.

    Keys by role stay where they are: they may concern the roles of some sources only, and are merged role by role later.
    """
    for name, section in dataset["sources"].items():
        own = at(given, ("sources", name), {})
        for key in section:
            if key in given and key not in own and key not in BY_ROLE:
                section[key] = copy.deepcopy(dataset[key])


def _embed(dataset: dict[str, Any], origins: Origins) -> tuple[list[Problem], list[str]]:
    problems: list[Problem] = []
    warnings: list[str] = []
    for name, path, section in sources(dataset):
        fmt = known_format(section)
        key = ".".join(str(p) for p in (*path, "format"))
        if fmt is None:
            message = "required for embedded data: say what format the data has that the docstring pairs stand in for"
            problems.append(Problem(key, message, origins.where(path)))
            continue
        if section.get("teacher") is not None:  # it labels the docstring pairs, too
            fmt = untaught_format(fmt)
        if isinstance(section, dict) and not str(section["train"]).startswith(STANDARD_LIBRARY):
            if section["train"] is not None:
                warnings.append(
                    f"data set '{name}': docstring pairs as {fmt} stand in for {origins.shown((*path, 'train'), section['train'])}"
                )
            section.update({k: {} if k in ("columns", "joins") else None for k in REPLACED}, train=embedded_address(fmt), format=fmt)
    return problems, warnings


def derived_name(values: Mapping[str, Any], origins: Origins) -> str:
    """`<model>-<loss>-<8 hex digits of everything that matters>`: the same configuration has the same name."""
    shown = redact_secrets(public(values, origins))  # another token is no other run
    for key in NAMELESS:
        section, _, inner = key.partition(".")
        if inner:
            (shown[section] or {}).pop(inner, None)
        else:
            shown.pop(section, None)
    digest = hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:8]
    model = PurePath(str(at(shown, ("model", "name_or_path"), "model")).rstrip("/")).name
    parent = PurePath(str(at(shown, ("model", "name_or_path"), "model"))).parent.name
    model = parent.removeprefix("gt_") if model == "model" and parent else model
    clean = "".join(c if c.isalnum() or c in "-_." else "-" for c in model)
    return "-".join(filter(None, (clean.lower(), at(shown, ("loss", "name")), digest)))


def public(values: Mapping[str, Any], origins: Origins) -> dict[str, Any]:
    """A copy with what came from the environment as it was written."""
    shown = copy.deepcopy(dict(values))
    for path, text in origins.from_environment.items():
        parent: Any = at(shown, path[:-1])
        if at(shown, path) is not None:
            parent[path[-1]] = text
    return shown
