"""What a loss is: hyper-parameters and one formula over representations, or over the scores of a cross-encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from stpipe.config.errors import ConfigError, DataError, Problem
from stpipe.config.fields import option
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.result import LossOutput

if TYPE_CHECKING:
    from stpipe.losses.guided import Guide

COUPLINGS: tuple[str, ...] = ("row", "anchor", "batch")  # from loose to tight


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a loss may know of the model that it is to train.

    embedding_dim: width of its embeddings; num_layers: of its backbone, 0 without one; decoder: makes the module that writes texts
    from embeddings, by the name or path of its weights (None: those of the backbone, shared with it); None where a model has none.
    """

    embedding_dim: int
    num_layers: int = 0
    decoder: Callable[[str | None], nn.Module] | None = None


class Loss(ABC):
    """A pure function of a RepBatch (for cross-encoders: of a ScoreBatch). Subclasses are frozen dataclasses: hyper-parameters, nothing else.

    No model, device, process group, step counter, logging, or randomness other than `ctx.generator`; nothing is read back
    to the host, so a GPU never waits.

    Class attributes (they go into the schema, where `validate` reads them without torch):
        coupling: what one summand needs to see. "row": its own row, so any split of the batch gives the same loss; "anchor":
            its own row and the pool of candidates, so anchors may be split while the pool stays whole; "batch": all rows
            of all processes, which come as local rows (engine/gather.py); "inherit": that of the loss inside.
        counts: what the loss is a mean over: "rows", "candidates" of all rows (of cross-encoders), or something that only itself can tell.
            A sum of row-coupled losses with different counts is no longer row-coupled: part by part its weights would shift.
        formats: formats of data that the loss can be trained on (config/formats.py); empty for a wrapper: those of the loss inside.
        kinds: kinds of model.
        wraps: fields that hold further losses: one loss, or terms by name.
        label_range: least and greatest label that makes sense, None when any does.
        sparsity: what it keeps sparse representations sparse by: "regularizer" (every active term costs), "autoencoder" (it
            trains the model's SparseAutoEncoder), None: it does not.
        num_outputs: what it needs of a cross-encoder: "one" score for each pair, or one for each of the "classes" of the data.
        margins: whether the labels may be margins of a teacher, and not only its scores.
        teachers: other models whose representations of the texts it needs, as keys of RepBatch.teacher: "guide", a frozen one, or
            "twin", a copy of the model that is trained beside it.
        learns: whether it has parameters of its own (`learned`): "always", or the key that gives it some when it is set;
            None: never.
        citation: BibTeX of the source, for the model card.
    """

    coupling: ClassVar[str]
    counts: ClassVar[str] = "rows"
    formats: ClassVar[tuple[str, ...]] = ()
    kinds: ClassVar[tuple[str, ...]] = ("dense",)
    wraps: ClassVar[tuple[str, ...]] = ()
    label_range: ClassVar[tuple[float, float] | None] = None
    sparsity: ClassVar[str | None] = None
    num_outputs: ClassVar[str | None] = None
    margins: ClassVar[bool] = False
    teachers: ClassVar[tuple[str, ...]] = ()
    learns: ClassVar[str | None] = None
    citation: ClassVar[str] = ""

    def inner(self) -> tuple[Loss, ...]:
        """The losses that this one wraps."""
        found: list[Loss] = []
        for name in self.wraps:
            value = getattr(self, name)
            found += [term.loss for term in value.values()] if isinstance(value, Mapping) else [value]
        return tuple(found)

    def map_inner(self, change: Callable[[Loss], Loss]) -> Loss:
        """The same loss around other losses: each one that it wraps is replaced by what `change` makes of it."""
        changed: dict[str, Any] = {}
        for name in self.wraps:
            value = getattr(self, name)
            if isinstance(value, Mapping):
                changed[name] = {key: replace(term, loss=change(term.loss)) for key, term in value.items()}
            else:
                changed[name] = change(value)
        return replace(self, **changed) if changed else self  # type: ignore[type-var]

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

    def sampled_negatives(self) -> int:
        """Negatives that each row gets from the other rows of its batch before the forward: for losses of cross-encoders, whose pairs
        are made by the collator. core.scores.ALL_NEGATIVES: all that there are."""
        return max((loss.sampled_negatives() for loss in self.inner()), default=0)

    def deleted_words(self) -> float:
        """Share of the words of each anchor that the collator deletes; what was there comes whole in `Targets.tokens`."""
        return max((loss.deleted_words() for loss in self.inner()), default=0.0)

    def needs_teachers(self) -> frozenset[str]:
        """The teachers of this loss and of those inside."""
        return frozenset(self.teachers).union(*(loss.needs_teachers() for loss in self.inner()))

    def guides(self) -> frozenset[Guide]:
        """The guide models of this loss and of those inside."""
        return frozenset().union(*(loss.guides() for loss in self.inner()))

    def encoded(self, roles: frozenset[str]) -> frozenset[str]:
        """Of these roles, those whose texts the model encodes: all, unless a loss looks at some of them through the twin alone."""
        inner = self.inner()
        return frozenset().union(*(loss.encoded(roles) for loss in inner)) if inner else roles

    def encoded_by_twin(self, roles: frozenset[str]) -> frozenset[str]:
        """Of these roles, those whose texts the twin encodes; none for most losses."""
        return frozenset().union(*(loss.encoded_by_twin(roles) for loss in self.inner()))

    def target_width(self, embedding_dim: int) -> int | None:
        """Width of the teacher's vectors that the loss compares a model's embeddings with; None: it looks at no such vectors."""
        return next((width for loss in self.inner() if (width := loss.target_width(embedding_dim)) is not None), None)

    def fitted(self, grades: Tensor) -> Loss:
        """The loss with what it derives from the data, such as the share of negatives or the number of classes; most derive nothing.

        grades: (N,) float64 labels of all training pairs.
        """
        return self.map_inner(lambda loss: loss.fitted(grades))

    def for_model(self, model: ModelFacts) -> Loss:
        """The loss with what it derives from the model, such as the layers to draw from; most derive nothing."""
        return self.map_inner(lambda loss: loss.for_model(model))

    def learned(self, model: ModelFacts) -> nn.Module | None:
        """What this loss learns itself (a classifier, a temperature), newly made from the global generator; None: nothing.

        The engine keeps it beside the model (losses/objective.py) and hands it to each call, see `own`.
        """
        return None

    def own(self, ctx: StepContext) -> Any:
        """What `learned` made, as it is now. Equal losses of one objective share it.

        Raises:
            ConfigError: the loss is called without it.
        """
        if self not in ctx.learned:
            what = f"{type(self).__name__} has parameters of its own, which are not there"
            raise ConfigError(f"{what}: make them with losses.objective.Objective(loss, ModelFacts(embedding_dim), seed=0) and call that")
        return ctx.learned[self]

    @abstractmethod
    def __call__(self, batch: Any, ctx: StepContext) -> LossOutput:
        """Sum and count over the local rows of `batch`, a RepBatch or for cross-encoders a ScoreBatch."""


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
