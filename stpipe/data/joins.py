"""Columns of ids joined with tables of texts, without ever writing the joined rows out (MS MARCO style)."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qsl

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stpipe.config.errors import DataError
from stpipe.data.sources import SourceRequest, open_source
from stpipe.data.table import RawTable, bad_value
from stpipe.data.texts import MISSING, TextRole, is_list, is_text, joined, list_offsets


def join_column(ids: pa.ChunkedArray, request: SourceRequest, *, raw: RawTable, column: str) -> tuple[TextRole, pa.Array]:
    """A column of ids (or lists of ids) as places in the texts of a table.

    Args:
        ids: the column.
        request: the table: an address as for `dataset.train`, with `?subset=...&split=...` where needed.
        raw: the table that holds the ids, and `column` its name there, for messages.
    """
    keys, texts, origin = _read_table(request)
    array = joined(ids)
    flat = array.flatten() if is_list(array.type) else array
    if flat.type != keys.type:
        flat, keys = flat.cast(pa.large_string()), keys.cast(pa.large_string())
    place = pc.index_in(flat, value_set=keys).fill_null(MISSING).to_numpy(zero_copy_only=False).astype(np.int64)
    unknown = (place == MISSING) & flat.is_valid().to_numpy(zero_copy_only=False)
    offsets = list_offsets(array) if is_list(array.type) else None
    if unknown.any():
        first = int(unknown.argmax())
        row = first if offsets is None else int(np.searchsorted(offsets, first, side="right") - 1)
        raise bad_value(
            raw.place(row), column, flat[first].as_py(), f"an id of the table {origin} ({int(unknown.sum())} ids are not in it)"
        )
    return TextRole(place, offsets), texts


def _read_table(request: SourceRequest) -> tuple[pa.Array, pa.Array, str]:
    uri, _, query = request.uri.partition("?")
    options = dict(parse_qsl(query))
    table = open_source(
        replace(
            request, uri=uri, subset=options.get("subset"), splits=(options.get("split", "train"),), optional_split="split" not in options
        )
    )
    names = table.table.column_names
    key = "id" if "id" in names else next((n for n in names if n.lower().endswith("id")), None)
    others = [n for n in names if n != key and is_text(table.table[n].type)]
    text = "text" if "text" in others else others[0] if len(others) == 1 else None
    if key is None or text is None:
        raise DataError(f"{request.key}: {table.origin} has the columns {', '.join(names)}; expected id and text.")
    ids = joined(table.table[key])
    if len(ids.unique()) < len(ids):
        raise DataError(f"{request.key}: {table.origin} has the same {key} more than once; expected one text for each id.")
    return ids, joined(table.table[text]).cast(pa.large_string()), table.origin
