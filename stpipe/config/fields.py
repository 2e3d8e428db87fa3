"""Fields of configurable dataclasses: default, documentation and range in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, field
from typing import Any


def option(
    default: Any = MISSING,
    *,
    help: str,
    factory: Callable[[], Any] | Any = MISSING,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    component: str | None = None,
) -> Any:
    """Declare one configurable field of a frozen dataclass.

    Args:
        default: value when the key is absent; without default and factory the key is required.
        help: one or two sentences for the reference: meaning, unit, what None means, why this default.
        factory: makes the default when it is mutable.
        ge, gt, le, lt: bounds of a number, checked by the decoder before anything heavy is imported.
        component: name of the registry group whose members may stand here (`{name: ..., ...}` in YAML). Works for
            a plain field, an optional one, and the values of a list or dict, as the annotation says.
    """
    bounds = {k: v for k, v in {"ge": ge, "gt": gt, "le": le, "lt": lt}.items() if v is not None}
    metadata = {"help": help, "bounds": bounds, "component": component}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)
