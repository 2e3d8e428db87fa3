"""One source read, its columns given roles, its texts indexed, its labels numbered; nothing checked or left out yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from stpipe.config.errors import ConfigError, DataError, Problem
from stpipe.config.formats import FORMATS, LABEL, Format, negative_roles
from stpipe.config.sections import SourceSection
from stpipe.config.teaching import OUTPUTS, taught_format, untaught_format
from stpipe.data.joins import join_column
from stpipe.data.labels import Labels, detect_format, encode_labels
from stpipe.data.roles import RoleMap, resolve_roles
from stpipe.data.sources import SourceRequest, open_source
from stpipe.data.table import RawTable, bad_value
from stpipe.data.texts import TextRole, TextTable, distinct, is_list, is_text, text_column


@dataclass(frozen=True, slots=True)
class Loaded:
    """Rows of one source by role. origin (rows,) int64: row of each in `raw`."""

    raw: RawTable
    roles: RoleMap
    format: Format
    texts: TextTable
    labels: Labels | None
    origin: np.ndarray

    def __len__(self) -> int:
        return self.origin.size

    def take(self, rows: np.ndarray) -> Loaded:
        """Some rows, in the given order."""
        labels = None if self.labels is None else self.labels.take(rows)
        return replace(self, texts=self.texts.take(rows), labels=labels, origin=self.origin[rows])

    def place(self, row: int) -> str:
        return self.raw.place(int(self.origin[row]))


def load(section: SourceSection, request: SourceRequest, *, path: str, classes: Sequence[str] = ()) -> Loaded:
    """Read one source.

    Args:
        section: keys of the data set.
        request: which source and split, and the format when it is known.
        path: configuration path of the data set, for messages.
        classes: names of classes that already have numbers (those of the training data).
    """
    if section.teacher is not None and request.format is not None:
        request = replace(request, format=untaught_format(request.format))
    return given_roles(open_source(request).flattened(), section, request, path=path, classes=classes)


def given_roles(raw: RawTable, section: SourceSection, request: SourceRequest, *, path: str, classes: Sequence[str] = ()) -> Loaded:
    """Rows that have been read, with their roles; arguments as for `load`."""
    if len(raw) == 0:
        raise DataError(f"{raw.origin}: found no rows, expected at least one.")
    roles = resolve_roles(raw.table.column_names, section.columns, origin=raw.origin, key=path)
    if request.format is not None and not section.columns:
        roles = _only(roles, FORMATS[request.format])
    if section.teacher is not None:
        return _to_be_taught(section, request, raw, roles, path)
    label = roles.columns.get(LABEL)
    array = None if label is None else raw.table[label]
    fmt = detect_format(roles.texts, array, request.format, raw=raw, column=label or "")
    if fmt.label is None and label is not None:
        raise DataError(f"{path}.columns.label: format {fmt.name} has no label; remove the key or choose another format.")
    labels = None
    if fmt.label is not None and label is not None and array is not None:
        labels = encode_labels(array, fmt.label, raw=raw, column=label, known=classes)
    texts = _texts(section, request, raw, roles, path)
    loaded = Loaded(raw, roles, fmt, texts, labels, np.arange(len(raw)))
    _check_lists(loaded)
    return loaded


def _to_be_taught(section: SourceSection, request: SourceRequest, raw: RawTable, roles: RoleMap, path: str) -> Loaded:
    """Rows without a label, in the format that their teacher's labels will make them (data/teaching.py)."""
    assert section.teacher is not None
    columns = {role: column for role, column in roles.columns.items() if role != LABEL}
    texts = RoleMap(columns, tuple(c for c in raw.table.column_names if c not in columns.values()), roles.how)
    asked = section.format or request.format
    if asked is not None and not any(FORMATS[name].fits(texts.texts) for name in (asked, untaught_format(asked))):
        raise DataError(
            f"{raw.origin}: format {asked} has the texts {', '.join(FORMATS[untaught_format(asked)].least_roles())}; "
            f"found {', '.join(texts.texts)}. Correct {path}.columns or {path}.format."
        )
    output = section.teacher.output
    fmt = taught_format(texts.texts, output)
    if fmt is None:
        fitting = [o for o in OUTPUTS if taught_format(texts.texts, o) is not None]
        what = f"a teacher has no {output} for rows of {', '.join(texts.texts)} ({raw.origin}). Outputs for these: {', '.join(fitting) or 'none'}"
        raise ConfigError(Problem(f"{path}.teacher.output", what))
    return Loaded(raw, texts, fmt, _texts(section, request, raw, texts, path), None, np.arange(len(raw)))


def _only(roles: RoleMap, fmt: Format) -> RoleMap:
    """Without the columns that the requested format has no role for; they count as unused."""
    negatives = negative_roles(roles.texts)[: None if fmt.more_negatives else fmt.negatives]
    keep = {*fmt.roles, *negatives, *([LABEL] if fmt.label else [])}
    dropped = tuple(c for r, c in roles.columns.items() if r not in keep)
    return RoleMap({r: c for r, c in roles.columns.items() if r in keep}, (*roles.unused, *dropped), roles.how)


def _texts(section: SourceSection, request: SourceRequest, raw: RawTable, roles: RoleMap, path: str) -> TextTable:
    columns: dict[str, TextRole] = {}
    texts: dict[str, pa.Array] = {}
    if unknown := [r for r in section.joins if r not in roles.texts]:
        raise ConfigError(Problem(f"{path}.joins.{unknown[0]}", f"the data has no such role. Roles: {', '.join(roles.texts)}"))
    for role in roles.texts:
        name = roles.columns[role]
        column = raw.table[name]
        _check_shape(role, name, column, raw)
        if role in section.joins:
            table = replace(request, uri=section.joins[role], key=f"{path}.joins.{role}", revision=None)
            columns[role], texts[role] = join_column(column, table, raw=raw, column=name)
            continue
        kind = column.type.value_type if is_list(column.type) else column.type
        if not is_text(kind):
            value = next((v for v in column.to_pylist() if v is not None), None)
            raise bad_value(raw.place(0), name, value, f"text (role {role})", fix=f"If it is an id, name its table in {path}.joins.{role}.")
        columns[role], texts[role] = text_column(column)
    return distinct(columns, texts)


def _check_shape(role: str, name: str, column: pa.ChunkedArray, raw: RawTable) -> None:
    """`documents` holds lists, every other role one text."""
    if is_list(column.type) != (role == "documents") and not pa.types.is_null(column.type):
        value = next((v for v in column.to_pylist() if v is not None), None)
        raise bad_value(raw.place(0), name, value, f"{'a list of texts' if role == 'documents' else 'one text'} (role {role})")


def _check_lists(loaded: Loaded) -> None:
    """A list of documents has as many scores as texts; k negatives have k margins or k + 1 scores, the same in all rows."""
    labels = loaded.labels
    if labels is None or labels.kind != "scores" or labels.offsets is None or labels.missing.all():
        return
    found = np.diff(labels.offsets)
    if "documents" in loaded.texts.roles:
        documents = loaded.texts.roles["documents"].counts()
        _refuse_list(loaded, found != documents, lambda row: f"one score for each document ({documents[row]})")
        return
    negatives = len(negative_roles(loaded.texts.roles))
    either = f"{negatives} (margins of the positive over each negative) or {negatives + 1} (teacher scores, the positive's first)"
    _refuse_list(loaded, ~np.isin(found, (negatives, negatives + 1)), lambda row: either)
    first = found[~labels.missing][0]
    _refuse_list(loaded, found != first, lambda row: f"{first} as in the rows before (margins and scores do not mix)")


def _refuse_list(loaded: Loaded, wrong: np.ndarray, expected: Callable[[int], str]) -> None:
    """An error for the first row whose list of labels has a wrong length; rows without a label are judged elsewhere."""
    assert loaded.labels is not None and loaded.labels.offsets is not None
    for row in np.flatnonzero(wrong & ~loaded.labels.missing)[:1]:
        count = loaded.labels.offsets[row + 1] - loaded.labels.offsets[row]
        raise bad_value(loaded.place(row), loaded.roles.columns[LABEL], f"a list of {count} numbers", expected(row))
