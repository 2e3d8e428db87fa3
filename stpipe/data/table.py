"""Rows as they were read, with the place that each came from, so that an error can name it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stpipe.config.errors import DataError

MAX_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive rows that came from one file. lines (rows,): line of each, counted from 1; None: known by row number, counted from 0.

    first: row number of the first of them, where the rows before it are elsewhere.
    """

    origin: str
    rows: int
    lines: np.ndarray | None = None
    first: int = 0


@dataclass(frozen=True, slots=True)
class RawTable:
    """Columns by name, and where the rows came from.

    spans cover all rows in order; class_names: column -> names of its integer classes, where the source declares them;
    text_numbers: columns hold text only (csv), so a label column must be read as numbers where it can be; provenance: what a hub
    says of the rows (data/provenance.py), nothing for local files, which speak for themselves; left_out: why -> rows that the source, as it
    was asked, did not give.
    """

    table: pa.Table
    spans: Sequence[Span]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    text_numbers: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def origin(self) -> str:
        """What the rows were read from, for messages."""
        return self.spans[0].origin if self.spans else "nothing"

    def flattened(self) -> RawTable:
        """Columns of records as one column a field, named `COLUMN.FIELD`; a list of records becomes a list a field."""
        table = self.table
        while any(_is_record(field.type) for field in table.schema):
            columns: dict[str, pa.ChunkedArray] = {}
            for name in table.column_names:
                columns.update(_fields_of(name, table[name]) if _is_record(table[name].type) else {name: table[name]})
            table = pa.table(columns)
        return self if table is self.table else replace(self, table=table)

    def place(self, row: int) -> str:
        """`FILE line N` (counted from 1) or `FILE row N` (counted from 0) of a row of the table."""
        for span in self.spans:
            if row < span.rows:
                return f"{span.origin} row {span.first + row}" if span.lines is None else f"{span.origin} line {span.lines[row]}"
            row -= span.rows
        raise IndexError(row)


def _is_record(kind: pa.DataType) -> bool:
    """True for records, and for lists of them."""
    return pa.types.is_struct(kind) or (pa.types.is_list(kind) and pa.types.is_struct(kind.value_type))


def _fields_of(name: str, column: pa.ChunkedArray) -> dict[str, pa.ChunkedArray]:
    """The fields of a column of records, or of lists of records; a missing record has missing fields."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if pa.types.is_struct(array.type):
        return {f"{name}.{field.name}": pa.chunked_array([pc.struct_field(array, field.name)]) for field in array.type}
    # flatten() honours offsets and leaves out what null lists hide, so offsets are made anew from the lengths.
    counts = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    items = array.flatten()
    fields = {field.name: pc.struct_field(items, field.name) for field in array.type.value_type}
    lists = {key: pa.ListArray.from_arrays(offsets, values, mask=array.is_null()) for key, values in fields.items()}
    return {f"{name}.{key}": pa.chunked_array([values]) for key, values in lists.items()}


def shown(value: object) -> str:
    """A value for a message, cut to MAX_SHOWN characters."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def bad_value(place: str, column: str, found: object, expected: str, *, fix: str = "") -> DataError:
    """The error for one value that is not what its column must hold."""
    return DataError(f"{place}, column '{column}': found {shown(found)}, expected {expected}." + (f" {fix}" if fix else ""))


def concatenate(parts: Sequence[RawTable]) -> RawTable:
    """All rows of all parts; a column that one part lacks is null there, one whose type differs is an error."""
    if len(parts) == 1:
        return parts[0]
    types: dict[str, tuple[pa.DataType, str]] = {}
    for part in parts:
        for column in part.table.schema:
            known, origin = types.setdefault(column.name, (column.type, part.origin))
            if known != column.type and not pa.types.is_null(known) and not pa.types.is_null(column.type):
                raise DataError(f"column '{column.name}' is {known} in {origin} but {column.type} in {part.origin}; expected one type.")
    table = pa.concat_tables([p.table for p in parts], promote_options="default")
    names = {k: v for p in parts for k, v in p.class_names.items()}
    return RawTable(table, [s for p in parts for s in p.spans], names, all(p.text_numbers for p in parts))
