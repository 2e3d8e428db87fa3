"""`stdlib://docstrings`: the embedded data set, in every format."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pyarrow as pa

from stpipe.data import docstring_formats, docstring_scores
from stpipe.data.cache import cache_root, digest, make_once
from stpipe.data.docstring_formats import FORMATTERS, Options
from stpipe.data.docstring_scores import LABELS, scored
from stpipe.data.docstrings import Pair, docstring_pairs, library_fingerprint
from stpipe.data.draw import drawn
from stpipe.data.sources.request import SourceRequest, not_found, pick_split
from stpipe.data.table import RawTable, Span

SCHEME = "stdlib://"
SPLITS = ("train", "test")
VECTORS = "vectors.npy"


def read_stdlib(request: SourceRequest) -> RawTable:
    """One split of the docstring pairs in one format; built on first use and then kept in the cache."""
    parts = urlsplit(request.uri)
    if parts.netloc != "docstrings" or parts.path.strip("/"):
        raise not_found(request, "the standard library has one data set, stdlib://docstrings")
    options = _options(request, dict(parse_qsl(parts.query, keep_blank_values=True)))
    split = pick_split(request, list(SPLITS))
    table = (_scored if options.format in LABELS else _formatted)(request, options, split)
    return RawTable(table, [Span(f"{request.uri}[{split}]", table.num_rows)])


def _formatted(request: SourceRequest, options: Options, split: str) -> pa.Table:
    """A format that the pairs themselves give."""
    pairs, rules = _folder(request, library_fingerprint()), library_fingerprint(docstring_formats)
    chosen = _folder(request, f"{rules}-bm25s-{version('bm25s')}-{options.format}-{options.negatives}-{options.documents}")

    def build(into: Path) -> None:
        make_once(pairs, _build_pairs)
        for name in SPLITS:
            _write(into, name, FORMATTERS[options.format](_pairs(pairs, name), options))

    make_once(chosen, build)
    return _read(chosen, split)


def _scored(request: SourceRequest, options: Options, split: str) -> pa.Table:
    """A format whose labels are a teacher's: only the rows that will be used are made, and each set of texts is encoded once."""
    teacher = request.teacher
    if teacher is None:
        raise not_found(request, f"the labels of format {options.format} are scores of a teacher, and there is none to ask")
    pairs = _folder(request, library_fingerprint())
    rules = [library_fingerprint(docstring_formats, docstring_scores), version("bm25s"), teacher.identity]
    wanted = [split, options.format, options.negatives, request.rows, request.seed if request.rows is not None else None]
    chosen = _folder(request, f"{digest([*rules, *wanted])}-{options.format}")

    def encode(texts: Sequence[str]) -> np.ndarray:
        folder = _folder(request, digest([teacher.identity, list(texts)]) + "-vectors")
        make_once(folder, lambda into: np.save(into / VECTORS, teacher.encode(texts)))
        return np.load(folder / VECTORS)

    def build(into: Path) -> None:
        make_once(pairs, _build_pairs)
        found = _pairs(pairs, split)
        _write(into, split, scored(found, options, drawn(len(found), request.rows, seed=request.seed), encode))

    make_once(chosen, build)
    return _read(chosen, split)


def _folder(request: SourceRequest, name: str) -> Path:
    return cache_root(request.cache_dir) / "docstrings" / name


def _pairs(folder: Path, split: str) -> list[Pair]:
    return [Pair(**row) for row in _read(folder, split).to_pylist()]


def _build_pairs(into: Path) -> None:
    for split, pairs in docstring_pairs().items():
        _write(into, split, pa.table({field: [getattr(p, field) for p in pairs] for field in Pair.__dataclass_fields__}))


def _write(folder: Path, split: str, table: pa.Table) -> None:
    with pa.ipc.new_file(str(folder / f"{split}.arrow"), table.schema) as writer:
        writer.write_table(table)


def _read(folder: Path, split: str) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(folder / f"{split}.arrow"))).read_all()


def _options(request: SourceRequest, query: dict[str, str]) -> Options:
    """Options from the address; the format also from dataset.format, the two may not disagree."""
    allowed = {"format", "negatives", "documents"}
    if unknown := sorted(set(query) - allowed):
        raise not_found(request, f"unknown option '{unknown[0]}'. Known: {', '.join(sorted(allowed))}")
    asked = query.get("format")
    if asked == "triplet" and query.get("negatives", "1") not in ("0", "1"):
        asked = "n-tuple"
    if asked and request.format and asked != request.format:
        raise not_found(request, f"the address asks for format '{asked}', dataset.format for '{request.format}'; keep one")
    name = asked or request.format or "pair"
    if name not in FORMATTERS and name not in LABELS:
        raise not_found(request, f"format '{name}' cannot be made from docstrings. Known: {', '.join(sorted([*FORMATTERS, *LABELS]))}")
    if name == "triplet-score" and query.get("negatives", "1") not in ("0", "1"):
        raise not_found(request, "format triplet-score has one negative; scores of several are format n-tuple-scores")
    numbers = {}
    for key, least in (("negatives", 2 if name == "n-tuple" else 1), ("documents", 2)):
        if key in query:
            if not query[key].isdigit() or int(query[key]) < least:
                raise not_found(request, f"option {key}={query[key]}: expected an integer of at least {least}")
            numbers[key] = int(query[key])
    return Options(name, numbers.get("negatives", 1 if name in ("triplet", "triplet-score") else 3), numbers.get("documents", 8))
