"""All batches of a run by number: batch i is computed from i alone, so restarting at any place costs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset

from stpipe.config.errors import DataError
from stpipe.core.batch import Batch
from stpipe.core.context import derive_seed
from stpipe.data.mixture import batches_of_epoch, order_of_epoch
from stpipe.data.prepared import PreparedSource


class Collator(Protocol):
    """Makes a batch of rows."""

    def __call__(self, source: PreparedSource, rows: np.ndarray, part: slice, seed: int) -> Batch:
        """The rows `part` of the global batch `rows`; seed: of this batch, the same on all processes."""
        ...

    def row_tokens(self, source: PreparedSource) -> np.ndarray:
        """(rows,) int64 tokens that each row has in a batch."""
        ...


class TextCollator:
    """The texts of each role as they are; what models of single texts train on."""

    def __call__(self, source: PreparedSource, rows: np.ndarray, part: slice, seed: int) -> Batch:
        return source.batch(rows[part])

    def row_tokens(self, source: PreparedSource) -> np.ndarray:
        return source.row_tokens()


class Sampler(Protocol):
    """See data/samplers.py."""

    @property
    def mixing(self) -> str: ...

    def batches(self, source: Any, *, batch_size: int, seed: int, epoch: int, drop_last: bool) -> list[np.ndarray]: ...


class BatchStream(Dataset):
    """Batches of this process. `len(stream)` batches make an epoch; `stream[i]` is batch i of the run, i from 0 without end.

    A batch comes from one data set, the same one on all processes. Its rows are dealt out in contiguous, equally large slices
    (they differ by at most one row in a batch that is not full). A last batch with fewer rows than processes is left out.

    A data set of which an epoch takes fewer or more batches than one pass makes (round_robin, weighted) goes on where the epoch
    before stopped, so all its rows are used before any is used again.

    Args:
        sources: data sets by name.
        sampler: makes the batches and names the mixing.
        batch_size: rows per process, one number or one for each data set.
        seed: of all orders.
        weights: share of each data set under weighted mixing; absent ones are 1.
        drop_last: leave out last batches that are not full.
        collators: how the rows of a data set become a batch, by its name; absent ones take the texts as they are.
        rank, world_size: this process among those that share each batch.
    """

    def __init__(
        self,
        sources: Mapping[str, PreparedSource],
        *,
        sampler: Sampler,
        batch_size: int | Mapping[str, int],
        seed: int,
        weights: Mapping[str, float] | None = None,
        drop_last: bool = False,
        collators: Mapping[str, Collator] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not sources:
            raise ValueError("BatchStream needs at least one data set")
        self.sources = dict(sources)
        self.sampler = sampler
        self.seed = seed
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.names = list(self.sources)
        self.collators: dict[str, Collator] = {name: (collators or {}).get(name, TextCollator()) for name in self.names}
        sizes = batch_size if isinstance(batch_size, Mapping) else dict.fromkeys(self.names, batch_size)
        self.batch_sizes = {name: sizes[name] for name in self.names}
        self._passes: dict[tuple[str, int], list[np.ndarray]] = {}
        self._order: tuple[int, tuple[np.ndarray, np.ndarray]] | None = None
        self.batches_per_pass = {name: len(self._pass(name, 0)) for name in self.names}
        per_pass = [self.batches_per_pass[n] for n in self.names]
        shares = [(weights or {}).get(name, 1.0) for name in self.names]
        counts = batches_of_epoch(sampler.mixing, per_pass, shares)
        self.batches_per_epoch = dict(zip(self.names, counts, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_passes": {}, "_order": None}

    def __len__(self) -> int:
        return sum(self.batches_per_epoch.values())

    @property
    def rows_per_epoch(self) -> int:
        """Rows of all processes that one epoch uses, by the first epoch's batches."""
        return sum(rows.size for i in range(len(self)) for rows in [self.rows(i)[1]])

    def rows(self, index: int) -> tuple[str, np.ndarray]:
        """(data set, row numbers of the global batch) of batch `index` of the run."""
        if index < 0:
            raise IndexError(index)
        epoch, position = divmod(index, len(self))
        if self._order is None or self._order[0] != epoch:
            counts = list(self.batches_per_epoch.values())
            self._order = (epoch, order_of_epoch(self.sampler.mixing, counts, seed=self.seed, epoch=epoch))
        which, ordinal = self._order[1]
        name = self.names[int(which[position])]
        place = epoch * self.batches_per_epoch[name] + int(ordinal[position])
        number, within = divmod(place, self.batches_per_pass[name])
        return name, self._pass(name, number)[within]

    def local_rows(self, index: int) -> tuple[str, np.ndarray]:
        """(data set, row numbers of this process's slice) of batch `index` of the run."""
        name, rows = self.rows(index)
        return name, rows[self._part(rows.size)]

    def _part(self, size: int) -> slice:
        return part_of(size, rank=self.rank, world_size=self.world_size)

    def __getitem__(self, index: int) -> Batch:
        name, rows = self.rows(index)
        return self.collators[name](self.sources[name], rows, self._part(rows.size), batch_seed(self.seed, index))

    def fetched(self) -> Dataset:
        """What loading processes ask for batches by number; `received` makes batches of what they send."""
        return self

    def received(self, item: Batch) -> Batch:
        """A batch that came from a loading process."""
        return item

    def state_dict(self) -> dict[str, Any]:
        """What a continued run needs besides its step: nothing, because a batch follows from its number."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""

    def worst_case(self, names: Iterable[str] | None = None) -> Batch:
        """The batch with the most tokens that could ever come: the longest rows of one data set, as many as its batch has.

        names: of the data sets to take it from; None: all.
        """
        looked_at = self.names if names is None else list(names)
        return costliest({name: (self.sources[name], self.collators[name], self.batch_sizes[name]) for name in looked_at}, self.seed)

    def _pass(self, name: str, number: int) -> list[np.ndarray]:
        """Global batches of the `number`-th pass over one data set; the newest passes are kept."""
        key = (name, number)
        if key not in self._passes:
            for old in [k for k in self._passes if k[0] == name and not number - 1 <= k[1] <= number]:
                del self._passes[old]
            self._passes[key] = self._make_pass(name, number)
        return self._passes[key]

    def _make_pass(self, name: str, number: int) -> list[np.ndarray]:
        size = self.batch_sizes[name] * self.world_size
        source = self.sources[name]
        batches = self.sampler.batches(source, batch_size=size, seed=self.seed, epoch=number, drop_last=self.drop_last)
        if batches and batches[-1].size < self.world_size:
            batches = batches[:-1]
        if not batches:
            raise DataError(
                f"data set '{name}' has {len(source)} rows: no batch of {size} rows ({self.batch_sizes[name]} on each of "
                f"{self.world_size} processes). Use a smaller batch_size, or more rows."
            )
        if min(b.size for b in batches) < self.world_size:
            raise DataError(
                f"data set '{name}': a batch has fewer rows than there are processes ({self.world_size}), because one text or label "
                "fills most rows. Use sampler=random."
            )
        return batches


def part_of(size: int, *, rank: int, world_size: int) -> slice:
    """The rows of one process among the `size` rows of a global batch."""
    bounds = np.arange(world_size + 1) * size // world_size
    return slice(int(bounds[rank]), int(bounds[rank + 1]))


def batch_seed(seed: int, index: int) -> int:
    """Seed of what is drawn for batch `index` of a run, the same on all processes."""
    return derive_seed(seed, index, 0xBA7C)


def costliest(data: Mapping[str, tuple[PreparedSource, Collator, int]], seed: int) -> Batch:
    """The batch with the most tokens: the longest rows of one data set. data: name -> (rows, collator, rows of a batch)."""
    best, most = next(iter(data)), -1
    chosen: dict[str, np.ndarray] = {}
    for name, (source, collator, size) in data.items():
        tokens = collator.row_tokens(source)
        count = min(size, tokens.size)
        chosen[name] = np.sort(np.argpartition(tokens, -count)[-count:])
        total = int(tokens[chosen[name]].sum())
        best, most = (name, total) if total > most else (best, most)
    source, collator, _ = data[best]
    return collator(source, chosen[best], slice(None), seed)
