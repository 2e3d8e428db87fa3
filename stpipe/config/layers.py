"""Merging the layers of a composition, each value with its origin.

A layer is one YAML file, one chosen component or one override. Later layers win key by key; lists are replaced. A layer
that gives a component another name starts it anew: keys of the component that stood there before would be foreign to it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from stpipe.config.origins import Origins, Path, at, dotted, leaves
from stpipe.config.schema import Schema, component, definition, slot_group


class Tree:
    """Values merged so far, where each came from, and what had to be dropped on the way."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.values: dict[str, Any] = {}
        self.origins = Origins()
        self.warnings: list[str] = []

    def copy(self) -> Tree:
        """Another tree with the same values, and no warnings."""
        tree = Tree(self.schema)
        tree.values, tree.origins = copy.deepcopy(self.values), copy.deepcopy(self.origins)
        return tree

    def merge(self, values: Any, places: Mapping[Path, str], at_path: Path = ()) -> None:
        """Lay values over what is there, below `at_path`; `places` has paths relative to it."""
        self._ensure(at_path, places.get((), next(iter(places.values()), "")))
        self._merge(values, places, at_path, ())

    def set(self, path: Path, value: Any, place: str) -> None:
        """One override."""
        inside = {path[-1]: value}
        self.merge(inside, dict.fromkeys(_all_paths(inside), place), path[:-1])

    def delete(self, path: Path) -> bool:
        """Remove a key; False when nothing had set it."""
        parent = at(self.values, path[:-1])
        if not isinstance(parent, dict) or path[-1] not in parent:
            return False
        del parent[path[-1]]
        self.origins.drop(path)
        return True

    def _ensure(self, path: Path, place: str) -> None:
        """Make the mappings that lead to a path (but not what stands there)."""
        node: dict[Any, Any] = self.values
        for i, part in enumerate(path[:-1]):
            inner = node.get(part)
            if not isinstance(inner, dict):
                inner = {}
                node[part] = inner
                self.origins.drop(path[: i + 1])
                self.origins.places[path[: i + 1]] = place
            node = inner

    def _merge(self, new: Any, places: Mapping[Path, str], path: Path, inner: Path) -> None:
        old = at(self.values, path) if path else self.values
        if isinstance(new, dict) and isinstance(old, dict):
            if "name" in new and isinstance(old.get("name"), str):
                self._start_anew(old, new["name"], path, places.get((*inner, "name"), ""))
            for key, value in new.items():
                self._merge(value, places, (*path, key), (*inner, key))
            if inner in places and path not in self.origins.places:
                self.origins.places[path] = places[inner]
            return
        if not path:
            return
        parent: Any = at(self.values, path[:-1]) if path[:-1] else self.values
        self.origins.drop(path)
        parent[path[-1]] = _copy(new)
        for known, place in places.items():
            if known[: len(inner)] == inner:
                self.origins.places[(*path, *known[len(inner) :])] = place

    def _start_anew(self, old: dict[str, Any], name: Any, path: Path, place: str) -> None:
        group = self.slot(path)
        if group is None or self._same(group, old["name"], name):
            return
        for key in [k for k in old if k != "name"]:
            gone = (*path, key)
            self.warnings.append(
                f"{dotted(gone)} ({self.origins.where(gone)}) does not apply to {group} '{name}' ({place}) and was dropped"
            )
            self.delete(gone)

    def _same(self, group: str, a: Any, b: Any) -> bool:
        first, second = (component(self.schema, group, name) if isinstance(name, str) else None for name in (a, b))
        return a == b or (first is not None and first is second)

    def slot(self, path: Path) -> str | None:
        """The group whose component stands at a path; None when none may."""
        node: Schema | None = self.schema
        for i, part in enumerate(path):
            node = self._child(node, part, path[:i]) if node is not None else None
        return slot_group(self.schema, node) if node is not None else None

    def _child(self, node: Schema, part: str | int, path: Path) -> Schema | None:
        group = slot_group(self.schema, node)
        if group:
            chosen = component(self.schema, group, at(self.values, (*path, "name")))
            return (chosen or {}).get("properties", {}).get(part)
        for option in node.get("anyOf", [node]):
            option = definition(self.schema, option)
            if isinstance(part, int) and "items" in option:
                found = option["items"]
            else:
                found = option.get("properties", {}).get(part) or option.get("additionalProperties")
            if isinstance(found, dict):
                return found
        return None


def drop_group(values: dict[str, Any], group: str) -> list[Path]:
    """Remove everything below one top key of a layer; the leaves that went."""
    return [path for path, _ in leaves({group: values.pop(group)})] if group in values else []


def _all_paths(value: Any, path: Path = ()) -> list[Path]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, inner in items for p in [(*path, key), *_all_paths(inner, (*path, key))]]


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value
