"""A source as shards that are read from their start to their end: a file each, or what the Hub divides a data set into."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import datasets
import xxhash

from stpipe.config.data_format import PARALLEL
from stpipe.config.errors import DataError
from stpipe.core.digest import digest
from stpipe.data.provenance import hub_provenance
from stpipe.data.sources import local_files, local_path, open_source
from stpipe.data.sources.files import SUFFIXES, open_bytes, suffix_of, table_of
from stpipe.data.sources.hub import class_names, stream_hub
from stpipe.data.sources.readers import Place, Reader, TableReader, open_file
from stpipe.data.sources.request import SourceRequest
from stpipe.data.sources.stdlib import SCHEME as STDLIB
from stpipe.data.table import RawTable

#: Bytes at either end of a file that tell it from another one of its size.
EDGE = 1 << 16


class Shard(Protocol):
    """A part of a data set."""

    def open(self, place: Place) -> Reader:
        """A reader that begins at a place ({}: at the start)."""
        ...

    def identity(self) -> list[Any]:
        """What tells it from another shard; JSON."""
        ...

    def files(self) -> tuple[Path, ...]:
        """The local files that it is."""
        ...


@dataclass(frozen=True)
class FileShard:
    """A local file."""

    path: Path

    def open(self, place: Place) -> Reader:
        return open_file(self.path, place)

    def identity(self) -> list[Any]:
        """Name, size, and a hash of both ends: reading all of it would take as long as training on it."""
        size = self.path.stat().st_size
        with self.path.open("rb") as handle:
            state = xxhash.xxh3_128(handle.read(EDGE))
            handle.seek(max(0, size - EDGE))
            state.update(handle.read(EDGE))
        return [self.path.name, size, state.hexdigest()]

    def files(self) -> tuple[Path, ...]:
        return (self.path,)


@dataclass(frozen=True)
class TableShard:
    """A source that is a table already: the embedded data, or what datasets.save_to_disk wrote. Read in each process when it is needed."""

    request: SourceRequest
    known: dict[str, RawTable] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"request": self.request, "known": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def open(self, place: Place) -> Reader:
        return TableReader(self._table(), place)

    def identity(self) -> list[Any]:
        return [self.request.uri, len(self._table())]

    def files(self) -> tuple[Path, ...]:
        return ()

    def _table(self) -> RawTable:
        if not self.known:
            self.known["table"] = open_source(self.request)
        return self.known["table"]


@dataclass(frozen=True)
class HubShard:
    """One shard of a Hub data set that is read as it is used. origin: for messages; revision: commit, where it is known."""

    rows: datasets.IterableDataset
    origin: str
    revision: str | None = None

    def open(self, place: Place) -> Reader:
        return HubReader(self, place)

    def identity(self) -> list[Any]:
        return [self.origin, self.revision]

    def files(self) -> tuple[Path, ...]:
        return ()


class HubReader:
    """Rows of a shard in streaming mode. `datasets` begins again in the shard: it passes over the rows before the place."""

    def __init__(self, shard: HubShard, place: Place) -> None:
        self.origin = shard.origin
        self.rows = copy.deepcopy(shard.rows)  # the place of the reading belongs to the object
        self.row = int(place.get("row", 0))
        if place:
            self.rows.load_state_dict(copy.deepcopy(place["state"]))
        self.iterator = iter(self.rows)

    def take(self, rows: int) -> RawTable:
        try:
            found = list(itertools.islice(self.iterator, rows))
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(f"{self.origin} after row {self.row}: the rows could not be read ({reason}).") from error
        table = table_of(self.origin, found, None, first=self.row)
        self.row += len(found)
        return RawTable(table.table, table.spans, class_names(self.rows.features))

    @property
    def place(self) -> Place:
        return {"row": self.row, "state": copy.deepcopy(self.rows.state_dict())}


@dataclass(frozen=True)
class Shards:
    """All shards of one split. provenance: what a hub says of them."""

    parts: tuple[Shard, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    def files(self) -> list[Path]:
        """The local files that they are."""
        return [file for part in self.parts for file in part.files()]

    def fingerprint(self) -> str:
        """Hash of what tells the shards from others: names, sizes and both ends of files, the revision of a Hub data set."""
        return digest([part.identity() for part in self.parts])


@contextmanager
def reading(shard: Shard) -> Iterator[None]:
    """Turns what goes wrong with a whole file into an error that names it."""
    try:
        yield
    except RecursionError as error:
        raise DataError(f"{shard.identity()[0]}: values are nested too deeply to be rows of texts.") from error
    except OSError as error:
        name = error.filename or next(iter(shard.files()), "the data")
        raise DataError(f"{name}: the file can no longer be read ({error.strerror or error}).") from error


def open_shards(request: SourceRequest) -> Shards:
    """The shards of one split of a source, of which no row has been read.

    Raises:
        ConfigError: there is no such source. DataError: a file cannot be read in parts.
    """
    path = local_path(request)
    if path is None:
        return Shards((TableShard(request),)) if request.uri.startswith((STDLIB, PARALLEL)) else _hub(request)
    files = local_files(request, path)
    if files is None:
        return Shards((TableShard(request),))
    for file in files:
        _check_streamable(file)
    return Shards(tuple(FileShard(file) for file in files))


def _hub(request: SourceRequest) -> Shards:
    rows = stream_hub(request)
    facts = hub_provenance(request.uri.removeprefix("hf://"), rows)
    name = f"{request.uri}[{rows.split or request.splits[0]}]"
    count = rows.num_shards
    parts = (
        HubShard(rows.shard(count, i), f"{name} shard {i + 1} of {count}", facts["revision"] or request.revision) for i in range(count)
    )
    return Shards(tuple(parts), facts)


def _check_streamable(path: Path) -> None:
    """JSON Lines may be called .json; one JSON document is known only when all of it has been read."""
    kind = suffix_of(path)
    if kind not in SUFFIXES:
        raise DataError(
            f"{path}: unknown type of file '{path.suffix}'. Known: {', '.join(SUFFIXES)}, each also with .gz (parquet without)."
        )
    if kind == ".json":
        with open_bytes(path) as handle:
            line = handle.readline(1 << 24).strip(b"\xef\xbb\xbf \t\r\n")
        if not (line.startswith(b"{") and line.endswith(b"}")):
            raise DataError(
                f"{path}: found one JSON document, which can only be read whole; expected a JSON object a line. Write it as JSON Lines, or set "
                "dataset.streaming=false."
            )
