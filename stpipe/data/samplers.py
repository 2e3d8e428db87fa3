"""Which rows make a batch. A sampler is its own configuration; its batches depend on its arguments and on nothing else."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np

from stpipe.config.fields import option
from stpipe.config.registry import SAMPLERS
from stpipe.core.context import derive_seed
from stpipe.data.grouping import grouped_batches
from stpipe.data.no_duplicates import spread_duplicates

Mixing = Literal["proportional", "round_robin", "weighted"]
MIXING_HELP = (
    "How several data sets take turns, one data set per batch. proportional: all batches of all data sets in random order. "
    "round_robin: in turn, until the smallest is used up. weighted: by dataset.sources.NAME.weight."
)


class Source(Protocol):
    """What a sampler reads of a data set."""

    name: str

    def __len__(self) -> int: ...

    @property
    def roles(self) -> tuple[str, ...]: ...

    def text_ids(self, role: str) -> np.ndarray: ...

    def counts(self, role: str) -> np.ndarray: ...

    def labels(self) -> np.ndarray | None: ...


def generator(source: Source, seed: int, epoch: int) -> np.random.Generator:
    """Random numbers of one pass over one data set, the same in every process."""
    return np.random.default_rng(derive_seed(seed, epoch, zlib.crc32(source.name.encode())))


def cut(order: np.ndarray, batch_size: int, drop_last: bool) -> list[np.ndarray]:
    """Consecutive batches; the last one may be smaller, or is left out."""
    end = order.size - order.size % batch_size if drop_last else order.size
    return [order[i : min(i + batch_size, end)] for i in range(0, end, batch_size)]


@SAMPLERS.register("random", aliases=("BATCH_SAMPLER", "BatchSamplers.BATCH_SAMPLER", "batch_sampler"))
@dataclass(frozen=True)
class RandomSampler:
    """Every row once an epoch, in another order each epoch."""

    needs_label: ClassVar[bool] = False
    mixing: Mixing = option("proportional", help=MIXING_HELP)

    def batches(self, source: Source, *, batch_size: int, seed: int, epoch: int, drop_last: bool = False) -> list[np.ndarray]:
        """Row numbers of each batch of one epoch."""
        return cut(generator(source, seed, epoch).permutation(len(source)), batch_size, drop_last)


@SAMPLERS.register(
    "no_duplicates",
    aliases=(
        "NO_DUPLICATES",
        "BatchSamplers.NO_DUPLICATES",
        "no_duplicates_hashed",
        "NO_DUPLICATES_HASHED",
        "BatchSamplers.NO_DUPLICATES_HASHED",
    ),
)
@dataclass(frozen=True)
class NoDuplicatesSampler:
    """No text occurs in two rows of a batch, in whatever roles: in-batch negatives are then never the positive itself.

    The number of batches is that of `random`. Rows that clash are swapped into other batches. A text that occurs in more rows
    than there are batches cannot be placed: its surplus rows, chosen anew each epoch, sit that epoch out, and batches are smaller.
    """

    needs_label: ClassVar[bool] = False
    mixing: Mixing = option("proportional", help=MIXING_HELP)

    def batches(self, source: Source, *, batch_size: int, seed: int, epoch: int, drop_last: bool = False) -> list[np.ndarray]:
        """Row numbers of each batch of one epoch."""
        return spread_duplicates(source, generator(source, seed, epoch), batch_size=batch_size, drop_last=drop_last)


@SAMPLERS.register("group_by_label", aliases=("GROUP_BY_LABEL", "BatchSamplers.GROUP_BY_LABEL"))
@dataclass(frozen=True)
class GroupByLabelSampler:
    """Every label of a batch occurs at least twice in it, and every batch has at least two labels.

    Batches hold at most batch_size rows (an even number of at least 4) and are about equally large. Left out are only rows that
    cannot be grouped: a label's only row, rows of a label so frequent that no other label is left to stand beside it, and with
    batches of 4 rows the odd row of a label.
    """

    needs_label: ClassVar[bool] = True
    mixing: Mixing = option("proportional", help=MIXING_HELP)

    def batches(self, source: Source, *, batch_size: int, seed: int, epoch: int, drop_last: bool = False) -> list[np.ndarray]:
        """Row numbers of each batch of one epoch."""
        return grouped_batches(source, generator(source, seed, epoch), batch_size=batch_size, drop_last=drop_last)
