"""What a resolved configuration sets differently from stpipe's defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stpipe.config.schema import component, definition, slot_group

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One key whose value is not the default. `required`: there is no default to compare with."""

    key: str
    value: Any
    default: Any = None
    required: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For report.json: a key without default has no `default`."""
        return {"key": self.key, "value": self.value, **({} if self.required else {"default": self.default})}


def changed_keys(config: Mapping[str, Any], schema: Schema) -> tuple[Change, ...]:
    """Every leaf of `config` that differs from its default in `schema`, in the order of the configuration.

    The names of chosen components are always listed, and so is everything that the schema does not know.
    """
    return tuple(_changes("", config, schema, schema))


def same(left: Any, right: Any) -> bool:
    """Equal as configuration values: a tuple is a list, 1 is 1.0, but True is not 1."""
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def _changes(key: str, value: Any, node: Schema, schema: Schema) -> Iterator[Change]:
    if not isinstance(value, Mapping) or not value:
        if "default" not in node or not same(value, node["default"]):
            yield Change(key, value, node.get("default"), required="default" not in node)
        return
    known = _object(value, node, schema)
    rest = known.get("additionalProperties")
    for name, inner in value.items():
        child = known.get("properties", {}).get(name, rest if isinstance(rest, Mapping) else {})
        yield from _changes(f"{key}.{name}" if key else str(name), inner, child, schema)


def _object(value: Mapping[str, Any], node: Schema, schema: Schema) -> Schema:
    """The definition that describes a mapping: of the chosen component in a slot, else the object among the alternatives."""
    whole, start = dict(schema), dict(node)
    group = slot_group(whole, start)
    if group:
        return component(whole, group, value.get("name")) or {}
    alternatives = (definition(whole, dict(option)) for option in node.get("anyOf", [node]))
    return next((d for d in alternatives if d.get("type") == "object"), {})
