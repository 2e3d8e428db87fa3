"""The losses of a configuration, as each data set is trained with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stpipe.config.data_format import sources
from stpipe.config.finding import Rules
from stpipe.config.origins import Path, at
from stpipe.config.resolve import inner_losses
from stpipe.config.schema import Schema


@dataclass(frozen=True)
class UsedLoss:
    """A loss as one data set is trained with it.

    path: its key; values: its keys; facts: of its class; source: name of the data set; place: key of the data set;
    section: the data set.
    """

    path: Path
    values: Mapping[str, Any]
    facts: Schema
    source: str
    place: Path
    section: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.values["name"])


def losses(rules: Rules, *, wrappers: bool = False) -> Iterator[UsedLoss]:
    """Each loss of each data set, as far as the configuration tells; with `wrappers` also those that wrap others."""
    for source, place, section in sources(rules.values["dataset"]):
        own = section["loss"] is not None
        path, loss = ((*place, "loss"), section["loss"]) if own else (("loss",), rules.values["loss"])
        if loss is None:
            continue
        for inner, name in inner_losses(rules.schema, loss, wrappers=wrappers):
            yield UsedLoss((*path, *inner), at(loss, inner), rules.component("loss", name), source, place, section)


def counts_differ(counts: Iterable[str]) -> bool:
    """Whether losses with these `counts` (a fact of their classes) may be means over different numbers of the same rows."""
    found = list(counts)
    return len(found) > 1 and not (set(found) == {"rows"} or set(found) == {"candidates"})
