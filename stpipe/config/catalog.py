"""What can be chosen: options of each config group, and recipes, each with one line. Reads files and schema only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stpipe.config.locations import configs_dir, recipes_dir
from stpipe.config.options import option_groups
from stpipe.config.schema import Schema, members
from stpipe.config.yaml_file import header_line

RECIPE = "recipe"


def groups(schema: Schema, *, config_dir: str | None = None) -> list[str]:
    """All config groups, recipes first."""
    folders = [Path(config_dir)] if config_dir else []
    found = {
        p.name
        for folder in (configs_dir(), *folders)
        if folder.is_dir()
        for p in folder.iterdir()
        if p.is_dir() and not p.name.startswith((".", "_"))
    }
    return [RECIPE, *sorted((found | set(option_groups(schema))) - {RECIPE})]


def catalog(schema: Schema, group: str, *, config_dir: str | None = None) -> dict[str, str]:
    """Option -> one line. A file wins over a component of the same name, the user's over stpipe's."""
    found = dict(_components(schema, group))
    own = [Path(config_dir) / group] if config_dir else []
    shipped = recipes_dir() if group == RECIPE else configs_dir() / group
    for folder in (shipped, *own):
        found.update(_files(folder))
    return dict(sorted(found.items()))


def _components(schema: Schema, group: str) -> Iterator[tuple[str, str]]:
    if group in option_groups(schema):
        for definition in members(schema, group):
            yield definition["x-name"], f"{definition['description'].rstrip('.')} ({definition['x-class'].rpartition('.')[2]})"


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(folder.rglob("*.yaml")) if folder.is_dir() else ():
        yield file.relative_to(folder).with_suffix("").as_posix(), header_line(file)
