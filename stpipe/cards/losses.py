"""The losses of a run: documented class names, parameters and sources."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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


def entry_key(bibtex: str) -> str:
    """The key of a BibTeX entry, by which duplicates are found."""
    found = re.search(r"@\w+\{([^,\s]+)", bibtex)
    return found[1] if found else bibtex
