"""Cross-field rules about streams: what needs all rows, or their number, before training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stpipe.config.data_format import sources
from stpipe.config.finding import Rules
from stpipe.config.origins import Path, dotted
from stpipe.config.used_losses import losses


def streams(rules: Rules) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    """(name, key path, section) of each data set that is streamed."""
    for name, path, section in sources(rules.values["dataset"]):
        if section["streaming"]:
            yield name, path, section


def length_of_streams(rules: Rules) -> None:
    """How many rows a stream has is known when it has been read."""
    if rules.values["trainer"]["max_steps"] is None:
        for name, path, _ in streams(rules):
            what = f"required with {dotted((*path, 'streaming'))}=true: nobody knows how many batches data set '{name}' has before it has been read"
            rules.problem(("trainer", "max_steps"), f"{what}. Say how long to train, like trainer.max_steps=10000, or set streaming=false")
            return


def mixture_of_streams(rules: Rules) -> None:
    """All batches of all data sets, shuffled, is an order that needs their numbers."""
    found = list(streams(rules))
    if found and len(rules.values["dataset"]["sources"]) > 1 and rules.values["sampler"].get("mixing") == "proportional":
        where = dotted((*found[0][1], "streaming"))
        what = f"'proportional' needs the number of rows of each data set, which {where}=true leaves open"
        rules.problem(("sampler", "mixing"), f"{what}. Use weighted (shares by dataset.sources.NAME.weight) or round_robin")


def samplers_of_streams(rules: Rules) -> None:
    """Samplers see the buffer and nothing beyond it."""
    name, needs = rules.values["sampler"]["name"], rules.component("sampler", rules.values["sampler"]["name"]).get("x-needs_label")
    for source, path, section in streams(rules):
        if needs:
            key, rows = dotted((*path, "shuffle_buffer")), section["shuffle_buffer"]
            rules.warn(
                f"sampler '{name}' groups data set '{source}' within its buffer of {rows:,} rows ({key}): a row whose label no other row of the buffer "
                "has is not used in that pass. It should hold several rows of each label"
            )


def rows_before_training(rules: Rules) -> None:
    """What makes something of all rows before training, and tables that would have to be in memory."""
    for name, path, section in streams(rules):
        key = dotted((*path, "streaming"))
        if section["joins"]:
            what = f"a join holds its table in memory, which {key}=true is there to avoid. Join the rows beforehand, or set streaming=false"
            rules.problem((*path, "joins"), what)
        if section["teacher"] is not None:
            what = f"a teacher labels all rows before training, but {key}=true reads them during it"
            rules.problem((*path, "teacher"), f"{what}. Label them beforehand (`stpipe encode`), or set streaming=false")
        if rules.values["mine"] is not None:
            what = f"mining searches all rows before training, but {key}=true reads them during it"
            rules.problem(("mine",), f"{what}. Run `stpipe mine` without streaming and stream what it writes, or set streaming=false")
        for loss in losses(rules):
            if loss.source == name and "guide" in (loss.facts.get("x-teachers") or []):
                what = f"loss '{loss.name}' asks a guide, which encodes all texts before training, but {key}=true reads them during it"
                rules.problem((*loss.path, "name"), f"{what}. Use another loss, or set streaming=false")


STREAMING_RULES: tuple[Callable[[Rules], None], ...] = (length_of_streams, mixture_of_streams, samplers_of_streams, rows_before_training)
