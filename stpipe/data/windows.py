"""A data set that is read in windows: so many rows at a time, in the order of its shards, as often as a run needs it.

A window is the shuffle buffer of a stream. Its rows follow from where it begins, so that place and two numbers are all that a checkpoint holds, and
a run that goes on reads one window.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from stpipe.config.errors import DataError
from stpipe.config.formats import LABEL
from stpipe.config.sections import CheckSection, SourceSection
from stpipe.core.context import derive_seed
from stpipe.data import checks
from stpipe.data.buffered import BufferedSource, Encodings
from stpipe.data.load import Loaded, given_roles
from stpipe.data.prepared import PreparedSource
from stpipe.data.sources import SourceRequest
from stpipe.data.sources.readers import Place, Reader
from stpipe.data.sources.shards import Shard, reading
from stpipe.data.table import RawTable, bad_value, concatenate

#: What a check does to rows of a window that it finds; what only warns has warned of the first rows.
ACTS = ("drop", "fail")


@dataclass(frozen=True)
class Mark:
    """Where a window begins. JSON.

    window: its number in the run; batch: batches of the data set before it; epoch: pass over the data; shard: how-manieth of the pass;
    place: in that shard, {} is where the pass enters it; row: rows of the pass before it.
    """

    window: int = 0
    batch: int = 0
    epoch: int = 0
    shard: int = 0
    place: Place = field(default_factory=dict)
    row: int = 0


@dataclass(frozen=True)
class RowStream:
    """How the rows of one data set are read in windows.

    Attributes:
        name: of the data set.
        shards: its parts.
        starts: where each begins; None leaves it out (held-out rows are at the start of the data).
        section: keys of the data set, with the columns that its first rows were found to have.
        request: with the format that its first rows were found to have.
        path: key path of the data set, for messages.
        checks: rules of the rows.
        limits: least and greatest label.
        held_out: rows that checks.overlap compares with.
        classes: names of the classes, where labels are names.
        num_classes: labels of classes are below this number; None has no limit.
        encodings: of its roles; None before they are known.
        fingerprint: of the shards.
    """

    name: str
    shards: Sequence[Shard]
    starts: Sequence[Place | None]
    section: SourceSection
    request: SourceRequest
    path: str
    checks: CheckSection
    limits: tuple[float | None, float | None]
    fingerprint: str
    held_out: Loaded | None = None
    classes: tuple[str, ...] | None = None
    num_classes: int | None = None
    encodings: Encodings | None = None

    def order(self, seed: int, epoch: int) -> list[int]:
        """Numbers of the shards in the order of one pass. Where only the first rows are used, these are the same in every pass."""
        there = [number for number, start in enumerate(self.starts) if start is not None]
        if self.section.max_rows is not None:
            return there
        random = np.random.default_rng(derive_seed(seed, epoch, zlib.crc32(self.name.encode()), 0x5A4D))
        return [there[i] for i in random.permutation(len(there))]

    def source(self, raw: RawTable) -> BufferedSource:
        """Rows of a window as samplers and collators take them."""
        assert self.encodings is not None
        return BufferedSource(self.loaded(raw), self.encodings, name=self.name, classes=self.classes)

    def loaded(self, raw: RawTable) -> Loaded:
        """Rows of a window by role, checked.

        Raises:
            DataError: a row is not what the first ones were, with its file and line.
        """
        rules = self.checks
        raw = with_columns(raw.flattened(), self.section.columns)
        loaded = given_roles(raw, self.section, self.request, path=self.path, classes=self.classes or ())
        loaded, _ = checks.empty_texts(loaded, rules.empty)
        if rules.duplicate_rows in ACTS:
            loaded, _ = checks.duplicate_rows(loaded, rules.duplicate_rows)
        if self.held_out is not None and rules.overlap in ACTS and len(loaded):
            loaded, _ = checks.overlap(loaded, self.held_out, rules.overlap)
        checks.label_range(loaded, *self.limits)
        self._check_classes(loaded)
        return loaded

    def _check_classes(self, loaded: Loaded) -> None:
        """Classes were counted in the first rows: the loss was made for these."""
        limit = len(self.classes) if self.classes is not None else self.num_classes
        if limit is None or loaded.labels is None or loaded.labels.kind not in ("class", "score"):
            return
        beyond = loaded.labels.values >= limit
        if beyond.any():
            row, column = int(beyond.argmax()), loaded.roles.columns[LABEL]
            known = ", ".join(self.classes[:20]) if self.classes else f"0 to {limit - 1}"
            value = loaded.raw.table[column][int(loaded.origin[row])].as_py()
            fix = f"Raise {self.path}.shuffle_buffer until it reaches a row of each class, or put such rows first."
            raise bad_value(
                loaded.place(row), column, value, f"one of the classes of the first {self.section.shuffle_buffer:,} rows ({known})", fix=fix
            )


def with_columns(raw: RawTable, columns: Mapping[str, str]) -> RawTable:
    """The table with a column for each role; one that none of these rows has is missing in all of them."""
    absent = [name for name in columns.values() if name not in raw.table.column_names]
    table = raw.table
    for name in absent:
        table = table.append_column(name, pa.nulls(table.num_rows))
    return replace(raw, table=table) if absent else raw


class WindowReader:
    """Reads the windows of one stream.

    Args:
        stream: the data set.
        rows: of a window; only the last one of a pass has fewer.
        seed: of the order of the shards.
    """

    def __init__(self, stream: RowStream, *, rows: int, seed: int) -> None:
        self.stream = stream
        self.rows = rows
        self.seed = seed
        self._open: tuple[int, Place, Reader] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def close(self) -> None:
        """Let go of the open file."""
        self._open = None

    def read(self, mark: Mark) -> tuple[RawTable, Mark, Mark]:
        """(rows of a window, where it does begin, where the next one begins, which knows nothing of its batches).

        A window does not reach over the end of a pass; one that would begin there begins with the next pass.

        Raises:
            DataError: a row cannot be read, or there are none.
        """
        for here in (mark, replace(mark, epoch=mark.epoch + 1, shard=0, place={}, row=0)):
            parts, following = self._parts(here)
            if parts:
                return concatenate(parts), here, following
        raise DataError(f"data set '{self.stream.name}': found no rows to train on in {len(self.stream.shards)} file(s) or shard(s).")

    def _parts(self, mark: Mark) -> tuple[list[RawTable], Mark]:
        limit = self.stream.section.max_rows
        missing = self.rows if limit is None else min(self.rows, limit - mark.row)
        order = self.stream.order(self.seed, mark.epoch)
        shard, place, row = mark.shard, mark.place, mark.row
        parts: list[RawTable] = []
        while missing and shard < len(order):
            with reading(self.stream.shards[order[shard]]):
                reader = self._reader(order[shard], place)
                found = reader.take(missing)
            if len(found):
                parts.append(found)
                missing, row = missing - len(found), row + len(found)
            if missing:
                shard, place, self._open = shard + 1, {}, None
            else:
                place = reader.place
                self._open = (order[shard], place, reader)
        return parts, Mark(mark.window + 1, 0, mark.epoch, shard, place, row)

    def _reader(self, number: int, place: Place) -> Reader:
        """A reader that stands at the place: the one that got there, or one that is opened there."""
        place = place or self.stream.starts[number] or {}
        if self._open is not None and self._open[:2] == (number, place):
            return self._open[2]
        return self.stream.shards[number].open(place)


class StreamedSource(PreparedSource):
    """The first rows of a stream, prepared: what plans, checks and start values look at. The batches come from `stream`.

    Args:
        folder: folder of these rows in the token cache.
        name: name of the data set.
        stream: all rows.
    """

    def __init__(self, folder: Any, *, name: str, stream: RowStream) -> None:
        super().__init__(folder, name=name)
        self.stream = stream

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "stream": self.stream}

    @property
    def fingerprint(self) -> str:
        """Of the first rows and of all files: their names, sizes and ends."""
        return f"{super().fingerprint}-{self.stream.fingerprint}"
