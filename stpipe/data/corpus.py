"""A column of texts that belong to no rows: documents to choose negatives from."""

from __future__ import annotations

import pyarrow as pa

from stpipe.config.errors import DataError
from stpipe.data.sources import SourceRequest, open_source
from stpipe.data.texts import is_text, joined


def read_texts(request: SourceRequest) -> list[str]:
    """The column `text` of a source, or its only column of texts; missing and blank ones are left out.

    Raises:
        ConfigError: there is no such source. DataError: it has no such column.
    """
    raw = open_source(request)
    names = [name for name in raw.table.column_names if is_text(raw.table[name].type)]
    chosen = "text" if "text" in names else names[0] if len(names) == 1 else None
    if chosen is None:
        columns = ", ".join(raw.table.column_names) or "none"
        raise DataError(f"{request.key}: {raw.origin} has the columns {columns}; expected a column `text`, or one column of texts.")
    texts: list[str | None] = joined(raw.table[chosen]).cast(pa.large_string()).to_pylist()
    return [text for text in texts if text is not None and text.strip()]
