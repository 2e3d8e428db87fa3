"""Hostile data files: rows that are nearly right, and bytes that are damaged. Whatever they hold, the error is ours and names the file."""

from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from stpipe.config.errors import StpipeError
from stpipe.config.sections import DatasetSection
from stpipe.core.digest import MANIFEST
from stpipe.core.tokenize import RoleTokenizer
from stpipe.data.prepare import prepare, read_splits
from stpipe.data.sources.readers import open_file
from stpipe.evaluation.testfiles import read_collection
from tests.fuzz.damage import damaged
from tests.fuzz.limits import in_time

ROLES = (
    "anchor",
    "positive",
    "negative_1",
    "negative",
    "query",
    "document",
    "documents",
    "label",
    "score",
    "sentence1",
    "sentence2",
    "text",
    "x",
)
FORMATS = (
    None,
    None,
    "pair",
    "pair-score",
    "pair-class",
    "triplet",
    "n-tuple",
    "query-document",
    "query-documents",
    "labelled-text",
    "pair-vector",
)
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv", ".csv.gz", ".parquet")
WORDS = ("red", "blue stone", "a small house", "0.5", "1", "-3", "[0.5, 1]", "2", "", " ", '"', "\t", "a,b")
NASTY = (
    None,
    True,
    0,
    -1,
    2**70,
    10**400,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "\x00",
    "\ud800",
    "\u202e x",
    "x" * 70_000,
    [],
    {},
    [None],
    ["a", 1],
    [[["x"]]],
    [0.5, None],
    {"a": {"b": 1}},
    [{"a": "x"}],
    [float("inf")],
)


@dataclass(frozen=True)
class File:
    """A file of rows, and what the configuration says of it."""

    suffix: str
    content: bytes
    format: str | None = None
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return f"rows{self.suffix}"


def encode(rows: list[dict[str, Any]], suffix: str) -> bytes:
    """Rows as the bytes of a file of this type; values that the type does not have become text."""
    kind = suffix.removesuffix(".gz")
    if kind == ".jsonl":
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    elif kind == ".json":
        data = json.dumps(rows).encode()
    elif kind in (".csv", ".tsv"):
        text = io.StringIO()
        names = list(dict.fromkeys(name for row in rows for name in row)) or ["anchor"]
        writer = csv.writer(text, delimiter="," if kind == ".csv" else "\t")
        writer.writerow(names)
        writer.writerows([[short(row.get(name, "")) for name in names] for row in rows])
        data = text.getvalue().encode("utf-8", "surrogatepass")
    else:
        data = parquet(rows)
    return gzip.compress(data, mtime=0) if suffix.endswith(".gz") else data


def short(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)[:100]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            columns.append(pa.array(values))
        except (pa.ArrowException, UnicodeEncodeError, OverflowError):
            columns.append(pa.array([short(v).encode("utf-8", "replace").decode("utf-8", "replace") for v in values]))
    sink = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_arrays(columns, names=names), sink)
    except pa.ArrowException:  # parquet has no such type
        pq.write_table(pa.table({"anchor": ["x"], "positive": ["y"]}), sink)
    return sink.getvalue()


@st.composite
def files(draw: st.DrawFn) -> File:
    """Rows of some format with one or two hostile values, or damaged bytes."""
    names = draw(st.lists(st.sampled_from(ROLES), min_size=1, max_size=5, unique=True))
    rows = [{name: draw(st.sampled_from(WORDS)) for name in names} for _ in range(draw(st.integers(0, 6)))]
    for _ in range(draw(st.integers(0, 3)) if rows else 0):
        row = draw(st.sampled_from(rows))
        row[draw(st.sampled_from(names))] = draw(st.sampled_from(NASTY))
    suffix = draw(st.sampled_from(SUFFIXES))
    content = encode(rows, suffix)
    if draw(st.booleans()):
        content = damaged(content, draw(st.integers(0, 2**32)))
    columns = draw(st.sampled_from(((), (), (("anchor", names[0]), ("positive", names[-1])), (("query", names[0]), ("label", "nowhere")))))
    return File(suffix, content, draw(st.sampled_from(FORMATS)), columns)


@functools.cache
def tokenizer() -> Any:
    """A real tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "red": 2, "stone": 3}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]", model_max_length=64)


def guarded(work: Callable[[], Any], *names: str) -> str | None:
    """Do the work: None when it went well, else the message of an error, which is ours, names a file, and of a value its row, too."""
    with in_time(lambda: ", ".join(names)):
        try:
            work()
            return None
        except StpipeError as error:
            text = str(error)
    assert any(name in text for name in names), f"the message names no file: {text}"
    if re.search(r"column '[^']*': found ", text):
        assert re.search(r"(line|row) \d+", text), f"the message names no row: {text}"
    assert len(text) < 3000, "a message that nobody reads"
    return text


def check_file(case: File) -> None:
    """Read, check and now and then tokenise; nothing but whole folders may be left in the cache."""
    with tempfile.TemporaryDirectory(prefix="stpipe-fuzz-") as scratch:
        path = Path(scratch) / case.name
        path.write_bytes(case.content)
        cache = Path(scratch) / "cache"
        section = DatasetSection(train=str(path), format=case.format, columns=dict(case.columns), eval_rows=2, cache_dir=str(cache))  # type: ignore[arg-type]
        failed = guarded(lambda: read_splits(section), case.name)
        if failed is None and len(case.content) % 4 == 0:
            again = guarded(lambda: prepare(section, tokenizers=lambda role, routes: RoleTokenizer(tokenizer())), case.name)
            assert again is None, again
        guarded(lambda: drain(path), case.name)
        for folder in (cache / "tokens").glob("*") if cache.exists() else ():
            assert folder.name.endswith(".lock") or (folder / MANIFEST).is_file(), f"{folder.name} is not whole"


def drain(path: Path) -> None:
    """The rows as a run with dataset.streaming reads them."""
    if path.name.endswith(".json"):
        return
    reader = open_file(path, {})
    while len(reader.take(3)):
        pass


@dataclass(frozen=True)
class Collection:
    """The three files of a test collection, with their suffixes."""

    queries: tuple[str, bytes]
    corpus: tuple[str, bytes]
    qrels: tuple[str, bytes]


IDS = ("q1", "q2", "d1", "d2", "", " ", "../../x", "\x00", "a b", "x" * 300)


@st.composite
def collections(draw: st.DrawFn) -> Collection:
    """Files in the layouts of BEIR and TREC, more or less."""

    def texts() -> tuple[str, bytes]:
        suffix = draw(st.sampled_from((".jsonl", ".tsv")))
        rows = draw(st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from((*WORDS, *NASTY))), max_size=5))
        if suffix == ".tsv":
            return suffix, "".join(f"{i}\t{short(t)}\n" for i, t in rows).encode("utf-8", "surrogatepass")
        key = draw(st.sampled_from(("_id", "id", "_id", "nr")))
        return suffix, "".join(
            json.dumps({key: i, "text": t, "title": draw(st.sampled_from((None, "t", 3)))}) + "\n" for i, t in rows
        ).encode()

    def judged() -> tuple[str, bytes]:
        suffix = draw(st.sampled_from((".jsonl", ".tsv", ".txt")))
        grade = st.sampled_from((0, 1, 2.5, "1", "x", None, float("nan"), float("inf"), "1e999"))
        rows = draw(st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(IDS), grade), max_size=5))
        if suffix == ".jsonl":
            return suffix, "".join(json.dumps({"query-id": q, "corpus-id": d, "score": g}) + "\n" for q, d, g in rows).encode()
        line = "{}\t{}\t{}\n" if suffix == ".tsv" else "{} 0 {} {}\n"
        return suffix, "".join(line.format(*row) for row in rows).encode()

    parts = [texts(), texts(), judged()]
    if draw(st.booleans()):
        hit = draw(st.integers(0, 2))
        parts[hit] = (parts[hit][0], damaged(parts[hit][1], draw(st.integers(0, 2**32))))
    return Collection(*parts)


def check_collection(case: Collection) -> None:
    """Read the collection and every text of it."""
    with tempfile.TemporaryDirectory(prefix="stpipe-fuzz-") as scratch:
        paths = {}
        for name in ("queries", "corpus", "qrels"):
            suffix, content = getattr(case, name)
            paths[name] = Path(scratch) / f"{name}{suffix}"
            paths[name].write_bytes(content)

        def read() -> None:
            found = read_collection(**{name: str(path) for name, path in paths.items()})
            assert found.queries and all(isinstance(text, str) for text in found.docs[:])

        guarded(read, *(path.name for path in paths.values()))
