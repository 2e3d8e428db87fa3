"""What Hydra is offered besides YAML files: every registered component as an option of its group, with all defaults.

`loss=mnrl` needs no file this way, and `--cfg job` shows every key. In a run only the name counts: the defaults that
are shown here come from the Python dataclasses, and the decoder fills them in from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stpipe.config.schema import Schema, component, definition, members, slot_group

ROOT_OPTION = "stpipe_defaults"
#: Name under which an option of a group of named components stands; where there is none, its own.
NAMES = {"evaluator": "dev"}


def option_groups(schema: Schema) -> dict[str, bool]:
    """Config group -> whether its key holds named components (`evaluator.NAME`) rather than one."""
    groups: dict[str, bool] = {}
    for key, node in schema["properties"].items():
        if slot_group(schema, node) == key:
            groups[key] = False
        elif isinstance(node.get("additionalProperties"), dict) and slot_group(schema, node["additionalProperties"]) == key:
            groups[key] = True
    return groups


def option_names(schema: Schema, group: str) -> list[str]:
    """The registered names of a group that Hydra may choose from."""
    return sorted(d["x-name"] for d in members(schema, group)) if group in option_groups(schema) else []


def option_values(schema: Schema, group: str, name: str, *, defaults: bool) -> dict[str, Any] | None:
    """What an option puts below its group's key; None when there is no such component."""
    chosen = component(schema, group, name) if group in option_groups(schema) else None
    if chosen is None:
        return None
    values = {"name": chosen["x-name"], **(object_defaults(schema, chosen) if defaults else {})}
    return {NAMES.get(group, str(chosen["x-name"])): values} if option_groups(schema)[group] else values


def object_defaults(schema: Schema, node: Schema) -> dict[str, Any]:
    """Default of each key, `???` for one that must be given."""
    values: dict[str, Any] = {}
    for key, option in node["properties"].items():
        if key == "name" and "x-name" in node:
            continue
        inner = definition(schema, option)
        if isinstance(option.get("default"), Mapping) and "properties" in inner:
            values[key] = {**object_defaults(schema, inner), **option["default"]}
        elif key in node.get("required", ()) and slot_group(schema, option) is None:
            values[key] = "???"
        elif "default" in option:
            values[key] = option["default"]
    return values
