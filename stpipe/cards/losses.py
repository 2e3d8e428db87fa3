"""The losses of a run: documented class names, parameters and sources."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

from stpipe.cards.places import published_value
from stpipe.config.registry import LOSSES
from stpipe.config.schema import component
from stpipe.reports.run_record import RunRecord, mapping


@dataclass(frozen=True, slots=True)
class LossFacts:
    """One objective: the data set it belongs to (None for the top-level one), its class, all classes in it, its configuration."""

    source: str | None
    name: str
    names: tuple[str, ...]
    config: Mapping[str, Any]
    citations: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "config": dict(self.config), "names": list(self.names), "citations": list(self.citations)}

    @staticmethod
    def from_dict(found: Mapping[str, Any]) -> LossFacts:
        """Take back what `as_dict` gave."""
        return LossFacts(
            found.get("source"), str(found["name"]), tuple(found["names"]), mapping(found.get("config")), tuple(found["citations"])
        )


def describe_losses(losses: Mapping[str, Any]) -> tuple[LossFacts, ...]:
    """The losses of a run, by data set, as they are when it starts: also those that only the data chose, and with values fitted to them.

    A loss is a dataclass with `citation`, `wraps` and `inner()` (losses/base.py). One that all data sets share is named once.
    """
    distinct: list[Any] = []
    for loss in losses.values():  # by value, without hashing: a sum holds a mapping
        distinct += [] if loss in distinct else [loss]
    sources = [None] if len(distinct) == 1 else list(losses)
    return tuple(_described(source, losses[source] if source is not None else distinct[0]) for source in sources)


def get_config_dict(loss: Any) -> dict[str, Any]:
    """The parameters of a loss as its configuration has them, with those of the losses inside; paths of this machine are cut."""
    names = {cls: name for name in LOSSES for cls in [LOSSES.get(name)]}
    found: dict[str, Any] = {"name": names.get(type(loss), type(loss).__name__)}
    return published_value({**found, **{f.name: _plain(getattr(loss, f.name)) for f in fields(loss)}})


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        inner = {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        return get_config_dict(value) if hasattr(value, "citation") else inner
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _described(source: str | None, loss: Any) -> LossFacts:
    parts = list(_parts(loss))
    names = tuple(dict.fromkeys(type(part).__name__ for part in parts))
    citations = tuple(dict.fromkeys(part.citation for part in parts if part.citation))
    return LossFacts(source, names[0], names, get_config_dict(loss), citations)


def _parts(loss: Any) -> Iterator[Any]:
    yield loss
    for inner in loss.inner():
        yield from _parts(inner)


def run_losses(record: RunRecord, schema: Mapping[str, Any]) -> tuple[LossFacts, ...]:
    """The losses that the run trained with: those of data sets that have their own, and the top-level one if any data set uses it."""
    sources = mapping(record.section("dataset").get("sources"))
    own = {name: loss for name, section in sources.items() if (loss := mapping(mapping(section).get("loss")))}
    top = mapping(record.section("dataset").get("loss")) or record.section("loss")
    objectives: list[tuple[str | None, Mapping[str, Any]]] = list(own.items())
    if top and len(own) < max(len(sources), 1):
        objectives.append((None, top))
    return tuple(_facts(source, loss, schema) for source, loss in objectives)


def _facts(source: str | None, config: Mapping[str, Any], schema: Mapping[str, Any]) -> LossFacts:
    classes = list(dict.fromkeys(_classes(config, dict(schema))))
    names = tuple(dotted.rsplit(".", 1)[-1] for dotted in classes)
    citations = tuple(dict.fromkeys(c for dotted in classes if (c := _citation(dotted))))
    return LossFacts(source, names[0], names, config, citations)


def _classes(config: Mapping[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    """Dotted class of a configured loss and of all losses inside, outermost first; an unknown one by the name that was given."""
    known = component(schema, "loss", config.get("name")) or {}
    yield str(known.get("x-class") or config.get("name"))
    for field in known.get("x-wraps") or ():
        inner = mapping(config.get(field))
        terms = [inner] if "name" in inner else [mapping(mapping(term).get("loss")) for term in inner.values()]
        for term in terms:
            yield from _classes(term, schema)


def _citation(dotted: str) -> str:
    module, _, name = dotted.rpartition(".")
    try:
        return str(getattr(importlib.import_module(module), name).citation)
    except (ImportError, AttributeError, ValueError):
        return ""
