"""Decoded plain values -> dataclasses. The only place where a component name becomes a class."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, Union

from stpipe.config.builtin import load_components
from stpipe.config.registry import REGISTRIES
from stpipe.config.sections import RootConfig

T = TypeVar("T")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def construct(cls: type[T], values: Mapping[str, Any]) -> T:
    """An instance of the dataclass `cls` from decoded values.

    Lists become tuples where the annotation says so, mappings become nested dataclasses, and `{name: ..., ...}` in a
    field declared with `option(component=GROUP)` becomes the registered class, also as a value of a list or mapping.
    Values that are no longer plain (already built) are passed through. Absent keys keep the dataclass default.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    hints = _hints(cls)  # type: ignore[arg-type]  # mypy does not see that classes are hashable
    made = {k: _convert(hints[k], v, fields[k].metadata.get("component")) for k, v in values.items() if k != "name" or k in fields}
    return cls(**made)


def build_component(group: str, values: Mapping[str, Any]) -> Any:
    """The component `{name: ..., ...}` of a group."""
    return construct(REGISTRIES[group].get(values["name"]), {k: v for k, v in values.items() if k != "name"})


def to_root(values: Mapping[str, Any]) -> RootConfig:
    """The whole configuration as dataclasses; imports every component module, torch with them."""
    load_components(tuple(values.get("imports", ())))
    return construct(RootConfig, values)


def _convert(hint: Any, value: Any, group: str | None) -> Any:
    if value is None:
        return None
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert(_branch(args, value), value, group)
    if isinstance(value, Mapping):
        if origin in (dict, Mapping) or hint in (dict, Mapping):
            return {k: _convert(args[1] if args else Any, v, group) for k, v in value.items()}
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and not group:
            return construct(hint, value)
        return build_component(group, value) if group else dict(value)
    if isinstance(value, (list, tuple)):
        fixed = origin is tuple and args and args[-1] is not Ellipsis
        hints = args if fixed else [args[0] if args else Any] * len(value)
        inner = [_convert(h, v, group) for h, v in zip(hints, value, strict=True)]
        return inner if origin is list or hint is list else tuple(inner)
    return value


def _branch(args: Sequence[Any], value: Any) -> Any:
    """The member of a union that a decoded value belongs to; the decoder has made sure that there is one."""

    def fits(hint: Any) -> bool:
        origin = typing.get_origin(hint) or hint
        if isinstance(value, Mapping):
            return origin in (dict, Mapping) or dataclasses.is_dataclass(origin)
        if isinstance(value, (list, tuple)):
            return origin in (list, tuple, Sequence)
        return isinstance(origin, type) and isinstance(value, origin)

    return next((hint for hint in args if hint is not type(None) and fits(hint)), Any)
