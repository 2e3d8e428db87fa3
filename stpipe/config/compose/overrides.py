"""Command line overrides: from what users write to what Hydra is to see, and onto the merged values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.layers import Tree
from stpipe.config.origins import Path, at, dotted
from stpipe.config.suggest import did_you_mean, unknown_name

APPENDED = ("recipe", "profile")
HYDRA_SETTINGS = (
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra.job.chdir=false",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)


def normalise(overrides: Sequence[str], loader: ConfigLoaderImpl) -> list[Override]:
    """Overrides as Hydra is to see them (the rules are in the package's docstring).

    Raises:
        ConfigError: with every override that cannot be read and every option that does not exist.
    """
    parser = OverridesParser.create(config_loader=loader)
    problems: list[Problem] = []
    parsed: list[Override] = []
    appended: dict[str, list[str]] = {group: [] for group in APPENDED}
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except (HydraException, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else next(iter(str(error).splitlines()), "")
            problems.append(Problem("", f"cannot read this override: {why}", text))
            continue
        bare, group = text.lstrip("+"), override.key_or_group
        if override.is_delete() or override.is_hydra_override():
            parsed.append(override)
        elif not loader.repository.group_exists(group) or _is_mapping(override):
            parsed.append(parser.parse_override(f"++{bare}"))
        elif override.is_sweep_override():  # its options are checked job by job
            parsed.append(parser.parse_override(f"+{bare}" if group in APPENDED else bare))
        else:
            names = _options(override)
            problems += _unknown_options(loader, group, names, text)
            if group in APPENDED:
                appended[group] += [n for n in names if n not in appended[group]]
            else:
                parsed.append(parser.parse_override(bare if names else f"~{group}"))
    if len(appended["recipe"]) > 1:
        problems.append(Problem("recipe", f"one recipe is a whole run; found {', '.join(appended['recipe'])}", "+recipe"))
    if problems:
        raise ConfigError(problems)
    chosen = {group: names[0] if len(names) == 1 else f"[{','.join(names)}]" for group, names in appended.items() if names}
    return [*parsed, *(parser.parse_override(f"+{group}={value}") for group, value in chosen.items())]


def _is_mapping(override: Override) -> bool:
    """True for `loss={name: mnrl}`, which sets keys and chooses no option."""
    return not override.is_sweep_override() and isinstance(override.value(), dict)


def _options(override: Override) -> list[str]:
    """The options that a group override chooses; none for `GROUP=null`."""
    value = override.value()
    return [str(v) for v in (value if isinstance(value, list) else [value]) if v is not None]


def _unknown_options(loader: ConfigLoaderImpl, group: str, names: Sequence[Any], place: str) -> list[Problem]:
    return [
        Problem(group, unknown_name(f"{group} option" if group not in APPENDED else group, str(name), all_options(loader, group)), place)
        for name in names
        if not loader.repository.config_exists(f"{group}/{name}")
    ]


def all_options(loader: ConfigLoaderImpl, group: str) -> list[str]:
    """Every option of a group, also those in folders below it (`ci/small`)."""
    options = list(loader.repository.get_group_options(group, ObjectType.CONFIG))
    for inner in loader.repository.get_group_options(group, ObjectType.GROUP):
        options += [f"{inner}/{name}" for name in all_options(loader, f"{group}/{inner}")]
    return options


def written(override: Override) -> str:
    """An override as a user writes it."""
    return re.sub(r"^\++(?!(recipe|profile)=)", "", str(override.input_line))


def refuse_sweeps(overrides: Sequence[Override]) -> None:
    """Several values for one key make several jobs, which only --multirun runs."""
    message = (
        "several values. Add --multirun (-m) for a job each, write a list as KEY=[a,b], or quote text that holds a comma: KEY='\"a,b\"'"
    )
    sweeps = [o for o in overrides if o.is_sweep_override() and not o.is_hydra_override()]
    if sweeps:
        raise ConfigError([Problem(o.key_or_group, message, written(o)) for o in sweeps])


def apply_overrides(tree: Tree, overrides: Sequence[Override]) -> list[Problem]:
    """Plain overrides; a component's name first, because another name starts the component anew."""
    problems: list[Problem] = []
    for override in sorted(overrides, key=lambda o: not o.key_or_group.endswith(".name")):
        text = str(override.input_line)
        path: Path = tuple(override.key_or_group.split("."))
        if override.is_delete():
            if not tree.delete(path):
                around = at(tree.values, path[:-1], {})
                hint = did_you_mean(str(path[-1]), [str(k) for k in around] if isinstance(around, dict) else [])
                problems.append(Problem(dotted(path), f"nothing sets this key, so there is nothing to remove. {hint}".strip(), text))
        else:
            tree.set(path, _unquote(override.value()), written(override))
    return problems


def _unquote(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, dict):
        return {str(_unquote(k)): _unquote(v) for k, v in value.items()}
    return [_unquote(v) for v in value] if isinstance(value, list) else value


def hydra_overrides(overrides: Sequence[str], loader: ConfigLoaderImpl) -> list[str]:
    """The same overrides for Hydra's own flags and sweeper: no folder, file or log of its own, keys set with `++`."""
    return [*HYDRA_SETTINGS, *(str(o.input_line) for o in normalise(overrides, loader))]
