"""Local data files. A bad row is reported by file, line and column; nothing is skipped or guessed."""

from __future__ import annotations

import bisect
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stpipe.config.errors import ConfigError, DataError
from stpipe.data.table import RawTable, Span, bad_value, shown

MAX_FIELD_CHARS = 2**31 - 1
ARROW_ERRORS = (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError)


def suffix_of(path: Path) -> str:
    """The suffix that says the file type, lower case, `.gz` left out."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_file(path: Path) -> RawTable:
    """All rows of one file, by its suffix."""
    reader = READERS.get(suffix_of(path))
    if reader is None:
        raise DataError(
            f"{path}: unknown type of file '{path.suffix}'. Known: {', '.join(SUFFIXES)}, each also with .gz (parquet without)."
        )
    try:
        return reader(path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: found damaged gzip data, expected a complete file ({error}).") from error
    except RecursionError as error:
        raise DataError(f"{path}: values are nested too deeply to be rows of texts.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error


def open_bytes(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _read_jsonl(path: Path) -> RawTable:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    with open_bytes(path) as handle:
        for number, row in json_rows(path, handle):
            rows.append(row)
            lines.append(number)
    return table_of(path, rows, np.array(lines, np.int64))


def json_rows(path: Path, handle: BinaryIO, *, line: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of each line of JSON Lines that is not blank, from where the handle stands; line: lines before that."""
    number = line
    damaged = (gzip.BadGzipFile, EOFError, zlib.error)  # names of its own: modules are gone when an unfinished generator is closed at exit
    try:
        for number, text in enumerate(handle, start=line + 1):
            if text.isspace():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                found = text[:200].decode("utf-8", "backslashreplace").rstrip()
                raise DataError(f"{path} line {number}: found {shown(found)}, expected one JSON object a line ({error}).") from error
            if not isinstance(row, dict):
                raise DataError(f'{path} line {number}: found {shown(row)}, expected a JSON object such as {{"anchor": "..."}}.')
            yield number, row
    except damaged as error:
        raise DataError(f"{path}: found damaged gzip data after line {number}, expected a complete file ({error}).") from error


def _read_json(path: Path) -> RawTable:
    """One JSON document: a list of objects, or an object of lists; or JSON Lines under the suffix .json."""
    with open_bytes(path) as handle:
        start = handle.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if start != b"[":
        table = _json_columns(path) if start == b"{" else None
        return table if table is not None else _read_jsonl(path)
    with open_bytes(path) as handle:
        try:
            rows = json.loads(handle.read())
        except ValueError as error:
            raise DataError(f"{path}: expected a JSON list of objects ({error}).") from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{path} row {number}: found {shown(row)}, expected a JSON object.")
    return table_of(path, rows, None)


def _json_columns(path: Path) -> RawTable | None:
    """A file that is one object of equally long lists; None when it is something else."""
    with open_bytes(path) as handle:
        try:
            content = json.loads(handle.read())
        except ValueError:
            return None
    if not all(isinstance(v, list) for v in content.values()) or not content:
        return None
    lengths = {name: len(v) for name, v in content.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{path}: found columns of different lengths {lengths}, expected equal ones.")
    table = pa.table({name: _column(v, name, lambda i: f"{path} row {i}") for name, v in content.items()})
    return RawTable(table, [Span(str(path), table.num_rows)])


def table_of(origin: Path | str, rows: list[dict[str, Any]], lines: np.ndarray | None, *, first: int = 0) -> RawTable:
    """Objects as a table; lines, first: see Span."""
    span = Span(str(origin), len(rows), lines, first)
    place = RawTable(pa.table({}), [span]).place
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: _column([row.get(name) for row in rows], name, place) for name in names})
    return RawTable(table, [span])


def _column(values: list[Any], name: str, place: Callable[[int], str]) -> pa.Array:
    """One column; the first value that does not go with those before it is an error that shows its place."""
    try:
        return pa.array(values)
    except ARROW_ERRORS:
        row = bisect.bisect(range(len(values)), False, key=lambda last: not _is_column(values[: last + 1]))
        before = pa.array(values[:row]).type
        expected = "valid Unicode" if pa.types.is_null(before) else f"{before} as in the rows before, in valid Unicode"
        raise bad_value(place(row), name, values[row], expected) from None


def _is_column(values: list[Any]) -> bool:
    try:
        pa.array(values)
    except ARROW_ERRORS:
        return False
    return True


def _read_delimited(path: Path, delimiter: str) -> RawTable:
    csv.field_size_limit(MAX_FIELD_CHARS)
    columns: list[list[str]] = []
    lines: list[int] = []
    header: list[str] = []
    with open_bytes(path) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
        for line, row in csv_rows(path, text, delimiter):
            if not header:
                header = check_header(path, line, row)
                columns = [[] for _ in header]
                continue
            check_fields(path, line, row, header)
            lines.append(line)
            for column, value in zip(columns, row, strict=True):
                column.append(value)
    table = pa.table({name: pa.array(c, pa.large_string()) for name, c in zip(header, columns, strict=True)})
    return RawTable(table, [Span(str(path), table.num_rows, np.array(lines, np.int64))], text_numbers=True)


def check_header(path: Path, line: int, header: list[str]) -> list[str]:
    """The names of the columns, when they can be told apart."""
    if len(set(header)) < len(header) or "" in header:
        raise DataError(f"{path} line {line}: found header {header}, expected names that are all there and all different.")
    return header


def check_fields(path: Path, line: int, row: list[str], header: list[str]) -> None:
    """A row has a field for each column."""
    if len(row) != len(header):
        raise DataError(f"{path} line {line}: found {len(row)} fields {shown(row)}, expected {len(header)} ({', '.join(header)}).")


def csv_rows(path: Path, text: Iterable[str], delimiter: str, *, line: int = 0) -> Iterator[tuple[int, list[str]]]:
    """(line on which the row starts, fields) of each row that is not blank, from lines of text; line: lines before the first of these."""
    before = line
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    damaged = (csv.Error, UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error)
    while True:
        line = before + reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except damaged as error:
            raise DataError(
                f"{path} line {line}: the row cannot be read ({error}). Expected UTF-8 fields between '{delimiter}'."
            ) from error
        if row:
            yield line, row


def _read_parquet(path: Path) -> RawTable:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: expected a parquet file ({str(error).splitlines()[0]}).") from error
    return RawTable(table, [Span(str(path), table.num_rows)])


READERS: dict[str, Callable[[Path], RawTable]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": lambda path: _read_delimited(path, ","),
    ".tsv": lambda path: _read_delimited(path, "\t"),
    ".parquet": _read_parquet,
}
SUFFIXES = tuple(READERS)
