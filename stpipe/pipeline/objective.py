"""The objective and the sampler of each data set, where the configuration leaves them to the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stpipe.config.build import build_component
from stpipe.config.defaults import default_loss
from stpipe.config.errors import ConfigError, Problem
from stpipe.config.registry import SAMPLERS
from stpipe.config.sections import RootConfig
from stpipe.data.prepared import PreparedSource
from stpipe.data.stream import Sampler
from stpipe.losses.base import Loss

#: Losses whose anchors are compared with every candidate of the batch say so by this coupling.
IN_BATCH = "anchor"

Range = tuple[float | None, float | None]


def losses_of(root: RootConfig, sources: Mapping[str, PreparedSource]) -> dict[str, Loss]:
    """Data set -> its loss: its own, the run's, or the default of its format; one that does not fit is refused.

    `validate` refuses the same when the configuration already says the format; here the data have said it.
    """
    found, problems = {}, []
    for name, source in sources.items():
        own = root.dataset.sources[name].loss if name in root.dataset.sources else None
        loss = own or root.loss or build_component("loss", default_loss(source.format.name, root.model.kind, sparsity=root.model.sparsity))
        key = f"dataset.sources.{name}.loss" if own is not None else "loss"
        for part in innermost(loss):
            if part.formats and source.format.name not in part.formats:
                problems.append(
                    Problem(
                        key,
                        f"{type(part).__name__} cannot be trained on data set '{name}', whose format is {source.format.name} "
                        f"({', '.join(source.roles)}). It takes {', '.join(part.formats)}",
                    )
                )
        found[name] = loss
    if problems:
        raise ConfigError(problems)
    return found


def innermost(loss: Loss) -> Iterator[Loss]:
    """The losses inside wrappers, or the loss itself."""
    inner = loss.inner()
    if not inner:
        yield loss
    for part in inner:
        yield from innermost(part)


def in_batch(loss: Loss) -> bool:
    """Whether anchors are compared with every candidate of the batch; a regulariser around them does not change that."""
    return any(part.coupling == IN_BATCH for part in innermost(loss))


def label_ranges(root: RootConfig) -> dict[str, Range]:
    """Data set -> labels that its loss can make sense of; those whose loss is left to the data are not in it."""
    names = list(root.dataset.sources) or ["default"]
    found: dict[str, Range] = {}
    for name in names:
        own = root.dataset.sources[name].loss if name in root.dataset.sources else None
        loss = own or root.loss
        ranges = [part.label_range for part in innermost(loss) if part.label_range is not None] if loss is not None else []
        if ranges:
            found[name] = (max(low for low, _ in ranges), min(high for _, high in ranges))
    return found


def sampler_of(root: RootConfig, losses: Mapping[str, Loss], sources: Mapping[str, PreparedSource]) -> Sampler:
    """The configured sampler, or the one that suits the losses: no text twice where others of the batch are negatives."""
    if root.sampler is not None:
        return root.sampler
    if any(in_batch(loss) for loss in losses.values()):
        return SAMPLERS.get("no_duplicates")()
    labelled = all(source.format.name == "labelled-text" for source in sources.values())
    return SAMPLERS.get("group_by_label" if labelled else "random")()
