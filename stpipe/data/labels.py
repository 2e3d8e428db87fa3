"""The label column: what it holds, and its values as numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stpipe.config.errors import DataError
from stpipe.config.formats import FORMATS, Format, match_format, negative_roles
from stpipe.data.table import RawTable, bad_value
from stpipe.data.texts import is_list, is_text, joined, list_offsets, offsets_of, spread


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of all rows. kind: that of the format ("score", "class", "scores", "vector").

    values: (N,) float64 scores | (N,) int64 classes | flat float64 with `offsets` (N + 1,) for lists, float32 for vectors;
    missing (N,) bool: rows without a label; classes: names of the classes 0, 1, ... when the column held names.
    """

    kind: str
    values: np.ndarray
    missing: np.ndarray
    offsets: np.ndarray | None = None
    classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return self.missing.size

    def take(self, rows: np.ndarray) -> Labels:
        if self.offsets is None:
            return replace(self, values=self.values[rows], missing=self.missing[rows])
        counts = np.diff(self.offsets)[rows]
        flat = self.values[spread(self.offsets[rows], counts)]
        return replace(self, values=flat, missing=self.missing[rows], offsets=offsets_of(counts))


def label_kind(array: pa.ChunkedArray, *, has_candidates: bool, text_numbers: bool) -> str:
    """What a column of labels can be told to hold by its type: floats are scores, integers and strings are classes, lists are
    scores of the candidates where a row has some (documents, negatives), or else vectors."""
    kind = array.type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "score"
    if is_list(kind) or (text_numbers and is_text(kind) and _holds_lists(array)):
        return "scores" if has_candidates else "vector"
    if text_numbers and is_text(kind):
        numbers = _as_float(array)
        if numbers is not None and not bool(np.all(numbers[~np.isnan(numbers)] % 1 == 0)):
            return "score"
    return "class"


def detect_format(roles: Sequence[str], array: pa.ChunkedArray | None, explicit: str | None, *, raw: RawTable, column: str = "") -> Format:
    """The format of the rows: as configured, else the only one that these roles and this label make."""
    has_candidates = "documents" in roles or bool(negative_roles(roles))
    kind = None if array is None else label_kind(array, has_candidates=has_candidates, text_numbers=raw.text_numbers)
    if explicit is not None:
        fmt = FORMATS[explicit]
        if match_format(roles, fmt.label) is not fmt or (fmt.label is not None and array is None):
            there = ", ".join([*roles, *(["label"] if array is not None else [])])
            raise DataError(
                f"{raw.origin}: dataset.format={explicit} needs {describe(fmt)}; found {there}. Correct dataset.columns or dataset.format."
            )
        return fmt
    candidates = [kind] if kind != "class" or array is None or (is_text(array.type) and not raw.text_numbers) else ["class", "score"]
    for candidate in candidates:
        found = match_format(roles, candidate)
        if found is not None:
            return found
    held = f"a label of type {array.type} (column '{column}')" if array is not None else "no label"
    known = "; ".join(f"{f.name}: {describe(f)}" for f in FORMATS.values())
    raise DataError(
        f"{raw.origin}: no format has the roles {', '.join(roles)} with {held}. Formats: {known}. "
        "Say which columns to use in dataset.columns, or name dataset.format."
    )


def describe(fmt: Format) -> str:
    """The roles of a format in words."""
    more = ["..."] if fmt.more_negatives else []
    label = {None: [], "score": ["label (number)"], "class": ["label (class)"], "scores": ["label (list of numbers)"]}.get(fmt.label)
    return ", ".join([*fmt.least_roles(), *more, *(["label (vector)"] if label is None else label)])


def encode_labels(array: pa.ChunkedArray, kind: str, *, raw: RawTable, column: str, known: Sequence[str] = ()) -> Labels:
    """Labels as numbers.

    Args:
        array: the label column.
        kind: what the format says that it holds.
        raw: the table it comes from, for messages and for class names that the source declares.
        column: name of the column.
        known: classes of the training data, which keep their numbers; classes that only this table has come after them.
    """
    if kind in ("scores", "vector") and raw.text_numbers and is_text(array.type):
        array = _parsed_lists(array, raw, column)
    missing = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else np.zeros(len(array), bool)
    if kind in ("scores", "vector"):
        return _lists(array, kind, missing, raw, column)
    if kind == "class":
        return _classes(array, missing, raw, column, known)
    values = _as_float(array)
    if values is None:
        place, value = _first_non_number(array, raw)
        raise bad_value(place, column, value, "a number (the label is a score)")
    missing = missing | np.isnan(values)
    infinite = np.isinf(values)
    if infinite.any():
        row = int(infinite.argmax())
        raise bad_value(raw.place(row), column, values[row], "a finite number")
    return Labels("score", values, missing)


def _holds_lists(array: pa.ChunkedArray) -> bool:
    """True when the first cell of a text file that holds anything looks like a JSON list."""
    return next((cell for cell in array.to_pylist() if cell and cell.strip()), "").lstrip().startswith("[")


def _parsed_lists(array: pa.ChunkedArray, raw: RawTable, column: str) -> pa.ChunkedArray:
    """The lists of numbers that the cells of a text file hold as JSON; an empty cell is no label."""
    rows: list[list[float] | None] = []
    for row, cell in enumerate(array.to_pylist()):
        rows.append(None)
        if cell is None or not cell.strip():
            continue
        try:
            numbers = json.loads(cell, parse_int=float)
        except ValueError:
            numbers = None
        if not isinstance(numbers, list) or not all(type(n) is float for n in numbers):
            raise bad_value(raw.place(row), column, cell, "a list of numbers as JSON, such as [0.9, 0.1]")
        rows[-1] = numbers
    return pa.chunked_array([pa.array(rows, pa.list_(pa.float64()))])


def _as_float(array: pa.ChunkedArray) -> np.ndarray | None:
    """float64 with NaN for null; None when a value is no number."""
    try:
        if pa.types.is_boolean(array.type):
            array = array.cast(pa.int8())
        if is_text(array.type) and not pa.types.is_null(array.type):
            array = pc.utf8_trim_whitespace(array.cast(pa.large_string()))
            array = pc.if_else(pc.equal(array, ""), pa.scalar(None, pa.large_string()), array)
        return array.cast(pa.float64(), safe=False).to_numpy().astype(np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def _first_non_number(array: pa.ChunkedArray, raw: RawTable) -> tuple[str, object]:
    for row, value in enumerate(array.to_pylist()):
        try:
            float(value) if value is not None and str(value).strip() else None
        except (TypeError, ValueError):
            return raw.place(row), value
    return raw.place(0), array[0].as_py()


def _classes(array: pa.ChunkedArray, missing: np.ndarray, raw: RawTable, column: str, known: Sequence[str]) -> Labels:
    """Integers keep their value (a negative one means no label, as in SNLI); names are numbered in sorted order."""
    declared = raw.class_names.get(column)
    numbers = _as_float(array) if not is_text(array.type) or raw.text_numbers else None
    if numbers is not None:
        missing = missing | np.isnan(numbers)
        filled = np.where(missing, -1, numbers)
        broken = filled % 1 != 0
        if broken.any():
            row = int(broken.argmax())
            raise bad_value(raw.place(row), column, numbers[row], "a class (an integer or a name)")
        return Labels("class", filled.astype(np.int64), missing | (filled < 0), classes=tuple(declared) if declared else None)
    if not is_text(array.type):
        raise bad_value(raw.place(0), column, array[0].as_py(), "a class (an integer or a name)")
    encoded = joined(array).cast(pa.large_string()).dictionary_encode()
    names = encoded.dictionary.to_pylist()
    order = [*known, *sorted(set(names) - set(known) - {""})]
    number = {name: i for i, name in enumerate(order)}
    table = np.array([*(number.get(n, -1) for n in names), -1], np.int64)
    values = table[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    return Labels("class", values, missing | (values < 0), classes=tuple(order))


def _lists(array: pa.ChunkedArray, kind: str, missing: np.ndarray, raw: RawTable, column: str) -> Labels:
    if not is_list(array.type):
        raise bad_value(raw.place(0), column, array[0].as_py(), "a list of numbers")
    whole = joined(array)
    flat = _as_float(pa.chunked_array([whole.flatten()]))
    offsets = list_offsets(whole)
    counts = np.diff(offsets)
    if flat is None or not np.isfinite(flat).all():
        row = 0 if flat is None else int(np.searchsorted(offsets, int((~np.isfinite(flat)).argmax()), side="right") - 1)
        raise bad_value(raw.place(row), column, array[row].as_py(), "a list of finite numbers")
    present = counts[~missing]
    if kind == "vector" and present.size and (present != present[0]).any():
        row = int(((counts != present[0]) & ~missing).argmax())
        raise bad_value(raw.place(row), column, f"a list of {counts[row]} numbers", f"{present[0]} numbers as in the other rows")
    return Labels(kind, flat.astype(np.float32) if kind == "vector" else flat, missing, offsets)
