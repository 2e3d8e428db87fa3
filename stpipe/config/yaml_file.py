"""YAML with places: the values of a file, and the line of each key."""

from __future__ import annotations

import re
from pathlib import Path as FilePath
from typing import Any

import yaml

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.origins import Path, dotted


class _Loader(yaml.SafeLoader):
    """The YAML that Hydra reads: 1e-5 is a number (YAML 1.1 needs 1.0e-5), a date is text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:e[-+]?\d+)?|\.\d[\d_]*(?:e[-+]?\d+)?|\d[\d_]*e[-+]?\d+|\.inf)$|^\.nan$", re.IGNORECASE),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """Writes what _Loader reads: text that looks like 1e-5 is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def display(file: FilePath) -> str:
    """A path as messages show it: relative to the current folder when it lies below, else in full."""
    try:
        return str(file.resolve().relative_to(FilePath.cwd()))
    except ValueError:
        return str(file)


def read_yaml(file: FilePath) -> tuple[dict[str, Any], dict[Path, str]]:
    """(values, path -> `file:line`) of a YAML file whose top is a mapping; anything else is a ConfigError with the line."""
    return parse_yaml(file.read_text(encoding="utf-8"), display(file))


def parse_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[Path, str]]:
    """`read_yaml` of a text; `name` is what places call it."""
    loader = _Loader(text)
    places: dict[Path, str] = {}
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, {}
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(Problem("", "expected keys and values at the top of the file", f"{name}:{node.start_mark.line + 1}"))
        values = _value(loader, node, (), name, places)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(Problem("", f"not valid YAML: {error.problem or error.context}", name + line)) from error
    finally:
        loader.dispose()
    return values, places


def _value(loader: _Loader, node: yaml.Node, path: Path, name: str, places: dict[Path, str]) -> Any:
    place = f"{name}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            line = f"{name}:{key_node.start_mark.line + 1}"
            if not isinstance(key, str):
                raise ConfigError(Problem(dotted(path), f"a key must be text, found {key!r}; put it in quotes", line))
            if key in mapping:
                raise ConfigError(Problem(dotted((*path, key)), f"key occurs twice (first in {places[(*path, key)]})", line))
            places[(*path, key)] = line
            mapping[key] = _value(loader, value_node, (*path, key), name, places)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        items = []
        for i, item in enumerate(node.value):
            places[(*path, i)] = f"{name}:{item.start_mark.line + 1}"
            items.append(_value(loader, item, (*path, i), name, places))
        return items
    places.setdefault(path, place)
    return loader.construct_object(node, deep=True)


def header_line(file: FilePath) -> str:
    """The first comment line of a file that says something, as `stpipe list` shows it."""
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            text = line.strip().lstrip("#").strip()
            if line.startswith("#") and text and not text.startswith("@package"):
                return text
            if line.strip() and not line.startswith("#"):
                break
    return ""


def write_yaml(values: dict[str, Any], *, header: str = "") -> str:
    """Text of a YAML file that `read_yaml` reads back to the same values."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=120)
    return "".join(f"# {line}\n" for line in header.splitlines()) + text
