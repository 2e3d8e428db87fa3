"""Texts of a role as an index into distinct texts, so that each distinct text is checked, tokenised and stored once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MISSING = -1


@dataclass(frozen=True, slots=True)
class TextRole:
    """The texts of one role. index (N,) int64: place of each text among the distinct texts, -1 where there is none.

    offsets (rows + 1,) int64: row i has the texts index[offsets[i]:offsets[i + 1]]; None = one text a row (N == rows).
    """

    index: np.ndarray
    offsets: np.ndarray | None = None

    @property
    def num_rows(self) -> int:
        return self.index.size if self.offsets is None else self.offsets.size - 1

    def counts(self) -> np.ndarray:
        """(rows,) texts of each row."""
        return np.ones(self.index.size, np.int64) if self.offsets is None else np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> TextRole:
        """The same role for some rows, in their order."""
        if self.offsets is None:
            return TextRole(self.index[rows])
        counts = self.counts()[rows]
        return TextRole(self.index[spread(self.offsets[rows], counts)], offsets_of(counts))

    def any_of_row(self, flags: np.ndarray) -> np.ndarray:
        """(rows,) bool: whether any text of the row has its flag set; flags (N,) bool."""
        if self.offsets is None:
            return flags
        padded = np.concatenate([[0], np.cumsum(flags)])
        return padded[self.offsets[1:]] > padded[self.offsets[:-1]]


@dataclass(frozen=True, slots=True)
class TextTable:
    """Rows whose texts are indices into `texts` (distinct, large_string, in order of first use by canonical roles)."""

    texts: pa.Array
    roles: Mapping[str, TextRole]

    @property
    def num_rows(self) -> int:
        return next(iter(self.roles.values())).num_rows

    def take(self, rows: np.ndarray) -> TextTable:
        """Some rows, with only the texts that they use."""
        return compact(replace(self, roles={name: role.take(rows) for name, role in self.roles.items()}))


def spread(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """starts[0], starts[0] + 1, ... (counts[0] numbers), starts[1], ...: flat positions of ragged pieces, without a loop."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if ends.size else 0
    return np.repeat(starts - (ends - counts), counts) + np.arange(total, dtype=np.int64)


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """(N + 1,) running total of counts, from 0."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def distinct(columns: Mapping[str, TextRole], texts: Mapping[str, pa.Array]) -> TextTable:
    """Roles whose index points into their own array of texts, as indices into the distinct texts of all roles.

    Args:
        columns: role -> places in its array of texts.
        texts: role -> large_string array; a null in it is a missing text.
    """
    starts = offsets_of(np.array([len(a) for a in texts.values()]))
    arrays = list(texts.values())
    shifted = {
        role: TextRole(np.where(c.index == MISSING, MISSING, c.index + start), c.offsets)
        for (role, c), start in zip(columns.items(), starts, strict=False)
    }
    table = compact(TextTable(pa.concat_arrays(arrays), shifted))
    encoded = table.texts.dictionary_encode()
    number = np.append(encoded.indices.fill_null(MISSING).to_numpy(zero_copy_only=False).astype(np.int64), MISSING)
    return TextTable(encoded.dictionary, {n: TextRole(number[r.index], r.offsets) for n, r in table.roles.items()})


def text_column(column: pa.ChunkedArray) -> tuple[TextRole, pa.Array]:
    """A column of texts, or of lists of texts, as places in a flat array."""
    array = joined(column)
    if not is_list(array.type):
        return TextRole(np.arange(len(array), dtype=np.int64)), array.cast(pa.large_string())
    flat = array.flatten().cast(pa.large_string())
    return TextRole(np.arange(len(flat), dtype=np.int64), list_offsets(array)), flat


def list_offsets(array: pa.Array) -> np.ndarray:
    """(rows + 1,) int64 offsets of a list array into its flattened values; a null is an empty list."""
    counts = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    return offsets_of(counts.astype(np.int64))


def joined(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, dictionaries decoded."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def missing_as_empty(table: TextTable) -> TextTable:
    """Missing texts become empty ones."""
    place = pc.index(table.texts, pa.scalar("", pa.large_string())).as_py()
    texts = table.texts if place >= 0 else pa.concat_arrays([table.texts, pa.array([""], pa.large_string())])
    place = place if place >= 0 else len(texts) - 1
    roles = {n: TextRole(np.where(r.index == MISSING, place, r.index), r.offsets) for n, r in table.roles.items()}
    return compact(TextTable(texts, roles))


def text_bytes(texts: pa.Array) -> tuple[np.ndarray, memoryview | bytes]:
    """(end of each text, all texts as UTF-8) of a large_string array; a view that depends on nothing but the content."""
    _, ends, data = texts.buffers()
    if len(texts) == 0 or data is None:
        return np.zeros(len(texts), np.int64), b""
    offsets = np.frombuffer(ends, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return offsets[1:] - offsets[0], memoryview(data)[offsets[0] : offsets[-1]]


def compact(table: TextTable) -> TextTable:
    """The same rows with texts renumbered in order of first use (roles in their order), and unused ones left out."""
    used = np.concatenate([r.index for r in table.roles.values()])
    used = used[used != MISSING]
    first = np.full(len(table.texts), used.size, np.int64)
    first[used[::-1]] = np.arange(used.size - 1, -1, -1)
    order = np.argsort(first, kind="stable")[: int((first < used.size).sum())]
    renumber = np.full(len(table.texts) + 1, MISSING, np.int64)
    renumber[order] = np.arange(order.size)
    roles = {n: TextRole(renumber[r.index], r.offsets) for n, r in table.roles.items()}
    return TextTable(table.texts.take(pa.array(order)), roles)


def is_list(kind: pa.DataType) -> bool:
    """True for any list type of Arrow."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_text(kind: pa.DataType) -> bool:
    """True for string types, dictionaries of strings, and a column that is null throughout."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind)


class TextSequence(Sequence[Any]):
    """Texts of one role, read from the distinct texts only when they are asked for."""

    def __init__(self, texts: pa.ChunkedArray, role: TextRole) -> None:
        self.texts = texts
        self.role = role

    def __len__(self) -> int:
        return self.role.num_rows

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return self._read(np.arange(len(self))[key])
        if not -len(self) <= key < len(self):
            raise IndexError(key)
        return self._read(np.array([key % len(self)]))[0]

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), 4096):
            yield from self._read(np.arange(start, min(start + 4096, len(self))))

    def _read(self, rows: np.ndarray) -> list[Any]:
        part = self.role.take(rows)
        flat = self.texts.take(pa.array(np.maximum(part.index, 0))).to_pylist() if part.index.size else []
        if part.offsets is None:
            return flat
        return [flat[a:b] for a, b in zip(part.offsets[:-1], part.offsets[1:], strict=True)]
