"""Readers that hold a few rows of a file at a time and can begin anywhere: they say where they stand and are opened there again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stpipe.config.errors import DataError
from stpipe.data.sources.files import check_fields, check_header, csv_rows, json_rows, open_bytes, suffix_of, table_of
from stpipe.data.table import RawTable, Span

#: Where a reader stands: values that JSON can hold. An empty one is the start.
Place = Mapping[str, Any]

#: Rows of a parquet file that are decoded at once.
DECODED = 1024


class Reader(Protocol):
    """Rows one after the other."""

    def take(self, rows: int) -> RawTable:
        """The next rows; fewer than asked for at the end only, and none from then on."""
        ...

    @property
    def place(self) -> Place:
        """Where the next row is."""
        ...


class JsonLinesReader:
    """JSON Lines, also compressed. A place is found by its byte; in a .gz everything before it is decompressed, about 200 MB a second."""

    def __init__(self, path: Path, place: Place) -> None:
        self.path = path
        self.line = int(place.get("line", 0))
        self.handle = open_bytes(path)
        self.handle.seek(int(place.get("byte", 0)))
        self.rows = json_rows(path, self.handle, line=self.line)

    def take(self, rows: int) -> RawTable:
        found = list(itertools.islice(self.rows, rows))
        lines = np.array([line for line, _ in found], np.int64)
        self.line = int(lines[-1]) if lines.size else self.line
        return table_of(self.path, [row for _, row in found], lines)

    @property
    def place(self) -> Place:
        return {"byte": self.handle.tell(), "line": self.line}


class DelimitedReader:
    """CSV and TSV, also compressed. A place is a byte between two rows."""

    def __init__(self, path: Path, place: Place, delimiter: str) -> None:
        self.path = path
        self.delimiter = delimiter
        self.handle = open_bytes(path)
        self.line = 0  # lines before the handle
        first = next(self._rows(), None)
        self.header = [] if first is None else check_header(path, *first)
        if place:
            self.handle.seek(int(place["byte"]))
            self.line = int(place["line"])
        self.rows = self._rows()

    def take(self, rows: int) -> RawTable:
        found = list(itertools.islice(self.rows, rows))
        for line, row in found:
            check_fields(self.path, line, row, self.header)
        columns = zip(*(row for _, row in found), strict=True) if found else ([] for _ in self.header)
        table = pa.table({name: pa.array(list(c), pa.large_string()) for name, c in zip(self.header, columns, strict=True)})
        lines = np.array([line for line, _ in found], np.int64)
        return RawTable(table, [Span(str(self.path), len(found), lines)], text_numbers=True)

    @property
    def place(self) -> Place:
        return {"byte": self.handle.tell(), "line": self.line}

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        return csv_rows(self.path, self._lines(), self.delimiter, line=self.line)

    def _lines(self) -> Iterator[str]:
        """Lines with their ends, counted as they are asked for: the csv module asks for no more than a row needs."""
        for line in self.handle:
            encoding = "utf-8-sig" if self.line == 0 else "utf-8"
            self.line += 1
            yield line.decode(encoding)


class ParquetReader:
    """Parquet. A place is a row; the row group that holds it is decoded from its start."""

    def __init__(self, path: Path, place: Place) -> None:
        self.path = path
        self.row = int(place.get("row", 0))
        try:
            self.file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path}: expected a parquet file ({str(error).splitlines()[0]}).") from error
        ends = np.cumsum([self.file.metadata.row_group(i).num_rows for i in range(self.file.num_row_groups)], dtype=np.int64)
        group = int(np.searchsorted(ends, self.row, side="right"))
        groups = list(range(group, self.file.num_row_groups))
        # One thread: the readers of several processes share the cores.
        self.batches = self.file.iter_batches(batch_size=DECODED, row_groups=groups, use_threads=False) if groups else iter(())
        self.rest: list[pa.RecordBatch] = []
        self._next(self.row - (int(ends[group - 1]) if group else 0))

    def take(self, rows: int) -> RawTable:
        table = pa.Table.from_batches(self._next(rows), schema=self.file.schema_arrow)
        first, self.row = self.row, self.row + table.num_rows
        return RawTable(table, [Span(str(self.path), table.num_rows, first=first)])

    @property
    def place(self) -> Place:
        return {"row": self.row}

    def _next(self, rows: int) -> list[pa.RecordBatch]:
        """The next rows, and what was decoded with them is kept."""
        found: list[pa.RecordBatch] = []
        while rows:
            batch = self.rest.pop() if self.rest else self._decoded()
            if batch is None:
                break
            if batch.num_rows > rows:
                self.rest = [batch.slice(rows)]
                batch = batch.slice(0, rows)
            found.append(batch)
            rows -= batch.num_rows
        return found

    def _decoded(self) -> pa.RecordBatch | None:
        try:
            return next(self.batches, None)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{self.path} after row {self.row}: damaged parquet data ({str(error).splitlines()[0]}).") from error


class TableReader:
    """A table that is there already, in memory or mapped from disk."""

    def __init__(self, table: RawTable, place: Place) -> None:
        self.whole = table
        self.row = int(place.get("row", 0))

    def take(self, rows: int) -> RawTable:
        part = self.whole.table.slice(self.row, rows)
        first, self.row = self.row, self.row + part.num_rows
        return RawTable(part, [Span(self.whole.origin, part.num_rows, first=first)], self.whole.class_names, self.whole.text_numbers)

    @property
    def place(self) -> Place:
        return {"row": self.row}


def open_file(path: Path, place: Place) -> Reader:
    """The reader of a data file, by its suffix."""
    kind = suffix_of(path)
    if kind in (".csv", ".tsv"):
        return DelimitedReader(path, place, "," if kind == ".csv" else "\t")
    return ParquetReader(path, place) if kind == ".parquet" else JsonLinesReader(path, place)
