"""What a loss is: hyper-parameters and one formula over representations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stpipe.config.errors import ConfigError, DataError, Problem
from stpipe.config.fields import option
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.result import LossOutput

COUPLINGS: tuple[str, ...] = ("row", "anchor", "batch")  # from loose to tight


class Loss(ABC):
    """A pure function of a RepBatch. Subclasses are frozen dataclasses: hyper-parameters, nothing else.

    No model, device, process group, step counter, logging, or randomness other than `ctx.generator`; nothing is read back
    to the host, so a GPU never waits.

    Class attributes (they go into the schema, where `validate` reads them without torch):
        coupling: what one summand needs to see. "row": its own row, so any split of the batch gives the same loss; "anchor":
            its own row and the pool of candidates, so anchors may be split while the pool stays whole; "batch": all rows of
            the process; "inherit": that of the loss inside.
        formats: formats of data that the loss can be trained on (config/formats.py); empty for a wrapper: those of the loss inside.
        kinds: kinds of model.
        wraps: fields that hold further losses: one loss, or terms by name.
        label_range: least and greatest label that makes sense, None when any does.
        sparsity: what it keeps sparse representations sparse by: "regularizer" (every active term costs), "autoencoder" (it
            trains the model's SparseAutoEncoder), None: it does not.
        citation: BibTeX of the source, for the model card.
    """

    coupling: ClassVar[str]
    formats: ClassVar[tuple[str, ...]] = ()
    kinds: ClassVar[tuple[str, ...]] = ("dense",)
    wraps: ClassVar[tuple[str, ...]] = ()
    label_range: ClassVar[tuple[float, float] | None] = None
    sparsity: ClassVar[str | None] = None
    citation: ClassVar[str] = ""

    def inner(self) -> tuple[Loss, ...]:
        """The losses that this one wraps."""
        found: list[Loss] = []
        for name in self.wraps:
            value = getattr(self, name)
            found += [term.loss for term in value.values()] if isinstance(value, Mapping) else [value]
        return tuple(found)

    def effective_coupling(self) -> str:
        """The tightest coupling of the loss itself and of those inside."""
        own = () if self.coupling == "inherit" else (self.coupling,)
        return max((*own, *(loss.effective_coupling() for loss in self.inner())), key=COUPLINGS.index)

    def citations(self) -> tuple[str, ...]:
        """BibTeX of this loss and of all losses inside, each once."""
        own = (self.citation,) if self.citation else ()
        return tuple(dict.fromkeys((*own, *(c for loss in self.inner() for c in loss.citations()))))

    def outputs(self, ctx: StepContext) -> frozenset[str]:
        """Further outputs of the encoder that this step needs, asked for before the forward; they come in `Rep.extras`."""
        return frozenset().union(*(loss.outputs(ctx) for loss in self.inner()))

    def targets(self) -> Mapping[str, float]:
        """Metrics that the run shall bring to a value, by name: those of the losses inside; the engine steers `ctx.factors` towards it."""
        return merge_targets(loss.targets() for loss in self.inner())

    @abstractmethod
    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        """Sum and count over the local rows of `batch`."""


def merge_targets(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """All targets together; a metric can be brought to one value only."""
    found: dict[str, float] = {}
    for name, value in (item for part in parts for item in part.items()):
        if found.setdefault(name, value) != value:
            raise ConfigError(
                Problem(f"loss.{name}", f"is to be both {found[name]:g} and {value:g}; give all losses of the run one target")
            )
    return found


@dataclass(frozen=True)
class Term:
    """One summand of an objective."""

    loss: Loss = option(help="The loss of this term.", component="loss")
    weight: float = option(1.0, ge=0, help="Factor of the term's mean.")


def scores(batch: RepBatch, *, loss: str) -> Tensor:
    """(B,) float target of each row: its score, or its class as a number."""
    found = batch.targets.score if batch.targets.score is not None else batch.targets.label
    if found is None:
        raise DataError(f"loss '{loss}' needs a label for each row, but the batch has none. Map one with dataset.columns.label")
    return found.to(torch.promote_types(found.dtype, torch.float32))


def classes(batch: RepBatch, *, loss: str) -> Tensor:
    """(B,) int64 class of each row."""
    if batch.targets.label is None:
        raise DataError(f"loss '{loss}' needs a class for each row, but the batch has none. Map one with dataset.columns.label")
    return batch.targets.label
