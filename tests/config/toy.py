"""A small root configuration with every kind of field, and a registry of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from stpipe.config.fields import option
from stpipe.config.registry import Registry
from stpipe.config.schema import Schema, SchemaBuilder

SHAPES = Registry("shape", facts=("corners",))


@SHAPES.register("circle", aliases=("Circle",))
@dataclass(frozen=True)
class Circle:
    """Round."""

    corners: ClassVar[int] = 0
    radius: float = option(1.0, gt=0, help="Half its width.")


@SHAPES.register("frame")
@dataclass(frozen=True)
class Frame:
    """Something around a shape."""

    shape: Any = option(component="shape", help="What is inside.")
    width: int = option(1, ge=1, le=9, help="Thickness.")


@dataclass(frozen=True)
class Size:
    """Nested section."""

    height: int = option(help="Rows.")
    unit: Literal["px", "cm"] = option("px", help="Unit.")


@dataclass(frozen=True)
class Picture:
    """Root."""

    shape: Any = option(component="shape", help="The shape.")
    size: Size = option(help="Size.", factory=lambda: Size(3))
    layers: Mapping[str, Any] = option(help="Shapes by name.", factory=dict, component="shape")
    names: Mapping[str, str] = option(help="Free keys.", factory=dict)
    points: tuple[float, ...] = option((0.0, 1.0), ge=0, help="Numbers.")
    place: tuple[int, int] = option((0, 0), help="Two numbers.")
    mode: str | tuple[str, ...] | None = option(None, help="One, several or none.")
    share: float | None = option(None, ge=0, le=1, help="A share.")
    flag: bool = option(False, help="Yes or no.")
    extra: Any = option(None, component="shape", help="Another shape, or none.")


def toy_schema() -> Schema:
    return SchemaBuilder({"shape": SHAPES}).root(Picture)
