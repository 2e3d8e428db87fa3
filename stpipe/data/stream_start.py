"""The beginning of a stream: what the first rows are, which of them are held out, and how all others will be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from stpipe.config.errors import ConfigError, DataError
from stpipe.config.sections import CheckSection, SourceSection
from stpipe.data.load import Loaded, given_roles
from stpipe.data.provenance import provenance
from stpipe.data.sources import SourceRequest
from stpipe.data.sources.readers import Place
from stpipe.data.sources.shards import Shard, Shards, open_shards, reading
from stpipe.data.table import RawTable, concatenate
from stpipe.data.windows import RowStream

Limits = tuple[float | None, float | None]


@dataclass(frozen=True)
class StreamStart:
    """first: rows from the start of the data, those that were held out left out; held_out: rows before them, None for none."""

    first: Loaded
    held_out: Loaded | None
    stream: RowStream


def begin(
    section: SourceSection, request: SourceRequest, *, name: str, path: str, hold_out: bool, checks: CheckSection, limits: Limits
) -> StreamStart:
    """Open a stream and read its first rows, as many as its buffer holds.

    Args:
        section: keys of the data set.
        request: which source and split.
        name: of the data set.
        path: its key path, for messages.
        hold_out: whether its first `eval_rows` rows (half of all, where there are fewer than twice as many) are held out.
        checks, limits: rules of rows and labels.
    """
    shards = open_shards(request)
    fingerprint = fingerprint_of(shards)
    wanted = section.shuffle_buffer if section.max_rows is None else min(section.shuffle_buffer, section.max_rows)
    held = section.eval_rows if hold_out else 0
    raw, _ = first_rows(shards.parts, held + wanted)
    if not len(raw):
        raise DataError(f"{request.uri}: found no rows in {len(shards.parts)} file(s) or shard(s), expected at least one.")
    if len(raw) < held + wanted:  # these are all rows
        held = min(held, len(raw) // 2)
    _, starts = first_rows(shards.parts, held)
    raw = replace(raw, provenance=shards.provenance or provenance(raw, shards.files())).flattened()
    first = given_roles(part_of(raw, held, len(raw)), section, request, path=path)
    section = replace(section, columns=dict(first.roles.columns))
    request = replace(request, format=first.format.name)
    classes = None if first.labels is None else first.labels.classes
    held_out = given_roles(part_of(raw, 0, held), section, request, path=path, classes=classes or ()) if held else None
    stream = RowStream(
        name,
        shards.parts,
        starts,
        section,
        request,
        path,
        checks,
        limits,
        fingerprint,
        classes=classes,
    )
    return StreamStart(first, held_out, stream)


def first_rows(shards: Sequence[Shard], rows: int) -> tuple[RawTable, list[Place | None]]:
    """(the first rows of all shards in their order, where each shard goes on; None for one that has no more)."""
    parts: list[RawTable] = []
    starts: list[Place | None] = []
    for shard in shards:
        if rows <= 0:
            starts.append({})
            continue
        with reading(shard):
            reader = shard.open({})
            found = reader.take(rows)
        rows -= len(found)
        parts.append(found)
        starts.append(reader.place if rows <= 0 else None)
    filled = [part for part in parts if len(part)]
    return (concatenate(filled) if filled else RawTable(pa.table({}), [])), starts


def part_of(raw: RawTable, start: int, stop: int) -> RawTable:
    """Consecutive rows of a table."""
    spans, row = [], 0
    for span in raw.spans:
        low, high = max(start - row, 0), min(stop - row, span.rows)
        if low < high:
            lines = None if span.lines is None else span.lines[low:high]
            spans.append(replace(span, rows=high - low, lines=lines, first=span.first + low))
        row += span.rows
    return replace(raw, table=raw.table.slice(start, stop - start), spans=spans)


def fingerprint_of(shards: Shards) -> str:
    """See Shards.fingerprint.

    Raises:
        ConfigError: a file cannot be read.
    """
    try:
        return shards.fingerprint()
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror or error}") from error
