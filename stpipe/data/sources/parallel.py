"""`parallel://FILE`: files of sentences and their translations."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from stpipe.config.data_format import parallel_address
from stpipe.config.errors import DataError
from stpipe.config.places import exists
from stpipe.data.sources.files import open_bytes
from stpipe.data.sources.request import SourceRequest, not_found
from stpipe.data.table import RawTable, Span, concatenate, shown

LONG = "max_characters"


def parallel_path(request: SourceRequest) -> tuple[Path, int | None]:
    """(path, or pattern of paths, of an address; longest text in characters, None: any).

    Raises:
        ConfigError: an option that there is not, no path, or a directory.
    """
    path, options, problem = parallel_address(request.uri)
    if problem:
        raise not_found(request, problem)
    if exists(path) and Path(path).expanduser().is_dir():
        raise not_found(request, f"{path} is a directory; name its files, like parallel://{path.rstrip('/')}/*.tsv.gz")
    return Path(path).expanduser(), options.get(LONG)


def read_parallel(files: Sequence[Path], max_characters: int | None) -> RawTable:
    """Pairs (anchor: the source sentence, positive: a translation), in the order of files, lines and columns.

    A line is a sentence and its translations, with a tab between each two; there is no header and no quoting. An empty field is a language
    without translation. Files may be gzipped.

    Args:
        files: read one after the other.
        max_characters: lines with a longer text are left out, and counted in `left_out`.

    Raises:
        DataError: a line that is no such line, or cannot be decoded; it is named.
    """
    parts, left_out = [], 0
    for path in files:
        part, long = _read(path, max_characters)
        parts.append(part)
        left_out += long
    why = f"of lines with a text of more than {max_characters} characters"
    return replace(concatenate(parts), left_out={why: left_out} if left_out else {})


def _read(path: Path, limit: int | None) -> tuple[RawTable, int]:
    """The pairs of one file, and how many were left out."""
    anchors: list[str] = []
    positives: list[str] = []
    lines: list[int] = []
    left_out = number = 0
    try:
        with open_bytes(path) as handle:
            for number, line in enumerate(handle, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if not text.strip():
                    continue
                source, *others = (field.strip() for field in text.split("\t"))
                translations = [other for other in others if other]
                if not source or not translations:
                    raise DataError(
                        f"{path} line {number}: found {shown(text.rstrip())}, expected a sentence and at least one translation, with a tab between "
                        "each two. Correct or remove the line."
                    )
                if limit is not None and max(map(len, (source, *translations))) > limit:
                    left_out += len(translations)
                    continue
                anchors += [source] * len(translations)
                positives += translations
                lines += [number] * len(translations)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} line {number}: the line cannot be read ({error}). Expected UTF-8.") from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{path}: found damaged gzip data after line {number}, expected a complete file ({error}).") from error
    columns = {"anchor": pa.array(anchors, pa.large_string()), "positive": pa.array(positives, pa.large_string())}
    return RawTable(pa.table(columns), [Span(str(path), len(lines), np.array(lines, np.int64))]), left_out
