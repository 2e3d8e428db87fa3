"""Batches of runs with streams: data sets that are read while they are trained on, beside prepared ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset

from stpipe.config.errors import ConfigError, DataError
from stpipe.core.batch import Batch
from stpipe.data.buffered import BufferedSource
from stpipe.data.mixture import Turns
from stpipe.data.prepared import PreparedSource
from stpipe.data.stream import BatchStream, Collator, Sampler, TextCollator, batch_seed, costliest, part_of
from stpipe.data.windows import Mark, RowStream, WindowReader


class Feed(Protocol):
    """The global batches of one data set, one after the other without end."""

    def batch(self, number: int) -> tuple[PreparedSource, np.ndarray, int, Mark | None]:
        """(rows to collate from, row numbers of batch `number`, row number of the first of them, where its window begins)."""
        ...

    def resume(self, mark: Mark) -> None:
        """Know a window that a later batch can be found from."""
        ...

    def close(self) -> None:
        """Let go of open files and of rows in memory; the next batch opens them again."""
        ...


class PreparedFeed:
    """Batches of prepared data, pass after pass."""

    def __init__(self, batches: BatchStream, name: str) -> None:
        self.batches = batches
        self.source = batches.sources[name]

    def batch(self, number: int) -> tuple[PreparedSource, np.ndarray, int, Mark | None]:
        return self.source, self.batches.rows(number)[1], 0, None

    def resume(self, mark: Mark) -> None:
        """Nothing: a batch follows from its number."""

    def close(self) -> None:
        """Nothing: rows are read through memory maps, which have no place."""


@dataclass(frozen=True)
class Window:
    """Rows in memory, their batches, and where this window and the next one begin."""

    mark: Mark
    source: BufferedSource
    batches: list[np.ndarray]
    following: Mark


class StreamFeed:
    """Batches of a stream: those that the sampler makes of each window. One window is in memory at a time.

    A window has `shuffle_buffer` rows, rounded up to whole batches. The sampler sees nothing beyond it.

    Args:
        stream: the data set.
        sampler: makes the batches of a window.
        size: rows of a batch of all processes.
        seed: of all orders.
        drop_last: leave out last batches of a window that are not full.
        world_size: processes; a batch with fewer rows is left out.
    """

    def __init__(self, stream: RowStream, *, sampler: Sampler, size: int, seed: int, drop_last: bool, world_size: int) -> None:
        self.stream = stream
        self.sampler = sampler
        self.size = size
        self.seed = seed
        self.drop_last = drop_last
        self.world_size = world_size
        self.rows = -(-stream.section.shuffle_buffer // size) * size
        self.reader = WindowReader(stream, rows=self.rows, seed=seed)
        self._known = [Mark()]
        self._window: Window | None = None
        self._nothing = ""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_window": None}

    def resume(self, mark: Mark) -> None:
        self._known = [Mark(), mark]

    def close(self) -> None:
        self._window = None
        self.reader.close()

    def batch(self, number: int) -> tuple[PreparedSource, np.ndarray, int, Mark | None]:
        if self._window is None or number < self._window.mark.batch:
            self._window = self._read(max((m for m in self._known if m.batch <= number), key=lambda m: m.batch))
        window, epoch = self._window, self._window.mark.epoch
        while number >= window.mark.batch + len(window.batches):
            following = window.following
            del window
            self._window = None  # before the next one is read: one window is in memory at a time
            window = self._window = self._read(following)
            epoch = window.mark.epoch if window.batches else epoch
            if window.mark.epoch > epoch + 1:
                raise DataError(
                    f"data set '{self.stream.name}': a whole pass over its rows made no batch of {self.size} rows. {self._nothing}"
                )
        return window.source, window.batches[number - window.mark.batch], window.mark.row, window.mark

    def _read(self, mark: Mark) -> Window:
        raw, mark, following = self.reader.read(mark)
        source = self.stream.source(raw)
        batches = self._batches(source, mark.window, whole=len(raw) == self.rows)
        return Window(mark, source, batches, replace(following, batch=mark.batch + len(batches)))

    def _batches(self, source: BufferedSource, window: int, *, whole: bool) -> list[np.ndarray]:
        if not len(source):
            return []
        try:
            found = self.sampler.batches(source, batch_size=self.size, seed=self.seed, epoch=window, drop_last=self.drop_last)
        except DataError as error:
            # The rest of a pass may be too small for the sampler; its rows sit this pass out.
            if whole:
                raise
            self._nothing = str(error)
            return []
        return [rows for rows in found if rows.size >= self.world_size]


@dataclass(frozen=True)
class Fetched:
    """What a loading process sends: a batch and where its window begins, or what was wrong with the data."""

    batch: Batch | None
    mark: Mark | None = None
    error: str | None = None


class StreamBatches(Dataset):
    """Batches of this process by number, like data/stream.py: BatchStream, of which an epoch is the whole run.

    Batch i comes from one data set, the same one on all processes, by `Turns`. All processes read all rows of a stream, and each tokenises those that
    it trains on. Asking for batches in order reads a stream once; asking for an earlier one reads it from the last place known before that.

    Args:
        sources: data sets by name; those with a `stream` are the first rows of it.
        sampler: makes the batches and names the mixing.
        batch_size: rows per process of each data set.
        seed: of all orders.
        num_batches: of the run.
        weights: share of each data set.
        drop_last: leave out last batches that are not full.
        collators: how the rows of a data set become a batch, by its name; absent ones take the texts as they are.
        rank, world_size: this process among those that share each batch.
    """

    def __init__(
        self,
        sources: Mapping[str, PreparedSource],
        *,
        sampler: Sampler,
        batch_size: Mapping[str, int],
        seed: int,
        num_batches: int,
        weights: Mapping[str, float],
        drop_last: bool = False,
        collators: Mapping[str, Collator] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.sources = dict(sources)
        self.names = list(self.sources)
        self.seed = seed
        self.num_batches = num_batches
        self.rank = rank
        self.world_size = world_size
        self.batch_sizes = {name: batch_size[name] for name in self.names}
        self.collators: dict[str, Collator] = {name: (collators or {}).get(name, TextCollator()) for name in self.names}
        self.turns = Turns(sampler.mixing, [weights.get(name, 1.0) for name in self.names], seed=seed)
        self.feeds: dict[str, Feed] = {}
        for name, source in self.sources.items():
            if source.stream is None:
                self.feeds[name] = PreparedFeed(
                    BatchStream(
                        {name: source},
                        sampler=sampler,
                        batch_size=self.batch_sizes[name],
                        seed=seed,
                        drop_last=drop_last,
                        rank=rank,
                        world_size=world_size,
                    ),
                    name,
                )
            else:
                size = self.batch_sizes[name] * world_size
                self.feeds[name] = StreamFeed(
                    source.stream, sampler=sampler, size=size, seed=seed, drop_last=drop_last, world_size=world_size
                )
        self._marks: dict[str, Mark] = {}

    def __len__(self) -> int:
        return self.num_batches

    def rows(self, index: int) -> tuple[str, np.ndarray]:
        """(data set, row numbers of the global batch) of batch `index`; rows of a stream are numbered as a pass reads them."""
        name, number = self._turn(index)
        _, rows, first, _ = self.feeds[name].batch(number)
        return name, rows + first

    def __getitem__(self, index: int) -> Batch:
        return self._batch(index)[0]

    def _turn(self, index: int) -> tuple[str, int]:
        if index < 0:
            raise IndexError(index)
        which, number = self.turns.at(index)
        return self.names[which], number

    def _batch(self, index: int) -> tuple[Batch, Mark | None]:
        name, number = self._turn(index)
        source, rows, first, mark = self.feeds[name].batch(number)
        part = part_of(rows.size, rank=self.rank, world_size=self.world_size)
        batch = self.collators[name](source, rows, part, batch_seed(self.seed, index))
        return (replace(batch, row=batch.row + first) if first else batch), mark

    def worst_case(self, names: Iterable[str] | None = None) -> Batch:
        """The batch with the most tokens that could come of prepared data and of the first rows of streams; names: of the data sets, None: all."""
        looked_at = self.names if names is None else list(names)
        return costliest({name: (self.sources[name], self.collators[name], self.batch_sizes[name]) for name in looked_at}, self.seed)

    def fetched(self) -> Dataset:
        """What loading processes ask for batches by number; `received` makes batches of what they send.

        What this process has open and in memory is let go: a loading process that is forked would go on with the same open files, and
        they would move each other's place.
        """
        for feed in self.feeds.values():
            feed.close()
        return _Fetching(self)

    def received(self, item: Fetched) -> Batch:
        """A batch that came from a loading process.

        Raises:
            DataError: what that process found wrong with the data.
        """
        if item.batch is None:
            raise DataError(
                f"{item.error}\nCorrect the data. Training stopped before this row was used; the checkpoints from before are intact."
            )
        if item.mark is not None:
            self._marks[item.batch.source] = item.mark
        return item.batch

    def fetch(self, index: int) -> Fetched:
        """Batch `index` with its mark; wrong data as a message, because an error of another process arrives wrapped in a traceback."""
        try:
            return Fetched(*self._batch(index))
        except DataError as error:
            return Fetched(None, error=str(error))

    def state_dict(self) -> dict[str, Any]:
        """Where the window of the last batch received from each stream begins. JSON; its size does not depend on rows."""
        sizes = {name: feed.rows for name, feed in self.feeds.items() if isinstance(feed, StreamFeed)}
        return {"windows": {name: asdict(mark) for name, mark in self._marks.items()}, "rows": sizes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            ConfigError: windows had another size, so the places mean nothing.
        """
        now = self.state_dict()["rows"]
        if state.get("rows", now) != now:
            raise ConfigError(
                f"trainer.resume: the buffers of the streams had {state['rows']} rows, and have {now} now. They follow from dataset.shuffle_buffer, the "
                "batch sizes and the number of processes: continue with those of the checkpoint."
            )
        for name, mark in state.get("windows", {}).items():
            self._marks[name] = Mark(**mark)
            self.feeds[name].resume(self._marks[name])


class _Fetching(Dataset):
    """The batches as loading processes make them."""

    def __init__(self, batches: StreamBatches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Fetched:
        return self.batches.fetch(index)
