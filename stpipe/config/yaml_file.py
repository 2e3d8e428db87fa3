"""YAML with places: the values of a file, and the line of each key."""

from __future__ import annotations

import re
from pathlib import Path as FilePath
from typing import Any

import yaml

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.origins import Path, dotted

#: Far more than any configuration has.
DEEPEST, MOST_VALUES, MOST_MERGES = 60, 100_000, 1_000
PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
MERGE = "tag:yaml.org,2002:merge"


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
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(Problem("", f"not UTF-8 ({error.reason}); save the file as UTF-8", f"{display(file)}:{line}")) from error
    return parse_yaml(text, display(file))


def parse_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[Path, str]]:
    """`read_yaml` of a text; `name` is what places call it. Files come from anywhere: no Python objects, no endless nesting or aliases."""
    reader = _Reader(name)
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:  # looks at all characters at once
        line = text[: error.position].count("\n") + 1
        found = f"not valid YAML: character {text[error.position]!a} is not allowed ({error.reason})"
        raise ConfigError(Problem("", found, f"{name}:{line}")) from error
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, {}
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(Problem("", "expected keys and values at the top of the file", f"{name}:{node.start_mark.line + 1}"))
        values = reader.value(loader, node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(Problem("", f"not valid YAML: {error.problem or error.context}", place)) from error
    except RecursionError as error:
        raise ConfigError(Problem("", f"not valid YAML: nested deeper than {DEEPEST} levels", name)) from error
    except yaml.YAMLError as error:
        raise ConfigError(Problem("", f"not valid YAML: {str(error).splitlines()[0]}", name)) from error
    finally:
        loader.dispose()
    return values, reader.places


class _Reader:
    """Makes values of nodes, and remembers their places.

    Aliases are put in wherever they stand, so a short file can hold very many values, or itself: both are counted.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.places: dict[Path, str] = {}
        self._made = 0

    def value(self, loader: _Loader, node: yaml.Node, path: Path) -> Any:
        """The value of a node that stands at `path`."""
        self._made += 1
        if self._made > MOST_VALUES or len(path) > DEEPEST:
            found = f"nested deeper than {DEEPEST} levels" if len(path) > DEEPEST else f"more than {MOST_VALUES:,} values"
            raise ConfigError(Problem("", f"{found}, aliases put in; no configuration is like that", self._line(node)))
        if node.tag not in PLAIN and not isinstance(node, yaml.ScalarNode):
            raise ConfigError(
                Problem(dotted(path), f"not valid YAML here: {node.tag} makes an object; write plain values", self._line(node))
            )
        if isinstance(node, yaml.MappingNode):
            return self._mapping(loader, node, path)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for i, item in enumerate(node.value):
                self.places[(*path, i)] = self._line(item)
                items.append(self.value(loader, item, (*path, i)))
            return items
        self.places.setdefault(path, self._line(node))
        return self._scalar(loader, node, path)

    def _mapping(self, loader: _Loader, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        if self._holds_itself(node):
            raise ConfigError(Problem(dotted(path), "an alias that is merged (<<) holds itself", self._line(node)))
        loader.flatten_mapping(node)
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = self._line(key_node)
            key = self._scalar(loader, key_node, path) if isinstance(key_node, yaml.ScalarNode) else key_node.tag
            if not isinstance(key, str) or not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(Problem(dotted(path), f"a key must be text, found {key!r}; put it in quotes", line))
            if key in mapping:
                raise ConfigError(Problem(dotted((*path, key)), f"key occurs twice (first in {self.places[(*path, key)]})", line))
            self.places[(*path, key)] = line
            mapping[key] = self.value(loader, value_node, (*path, key))
        return mapping

    @staticmethod
    def _holds_itself(node: yaml.MappingNode) -> bool:
        """Whether following its merges leads back to a mapping, which PyYAML would do for ever."""
        waiting, seen = [node], 0
        while waiting:
            current = waiting.pop()
            seen += 1
            for key, value in current.value:
                if getattr(key, "tag", "") == MERGE:
                    inner = [value] if isinstance(value, yaml.MappingNode) else value.value if isinstance(value, yaml.SequenceNode) else []
                    waiting += [n for n in inner if isinstance(n, yaml.MappingNode)]
            if seen > MOST_MERGES:
                return True
        return False

    def _scalar(self, loader: _Loader, node: yaml.Node, path: Path) -> Any:
        try:
            return loader.construct_object(node, deep=True)
        except (ValueError, OverflowError, TypeError, AttributeError, KeyError) as error:  # what PyYAML does with `!!int x`
            raise ConfigError(
                Problem(dotted(path), f"{str(node.value)[:80]!r} is no {node.tag.rpartition(':')[2]}", self._line(node))
            ) from error

    def _line(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"


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
