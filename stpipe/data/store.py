"""Distinct texts with their tokens in one Arrow file, read through a memory map without copying."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import xxhash

from stpipe.core.tokenize import tokenize_counted
from stpipe.data.texts import spread

CHUNK = 8192
SCHEMA = pa.schema(
    [
        ("text", pa.large_string()),
        ("ids", pa.large_list(pa.field("item", pa.int32(), nullable=False))),
        ("full_length", pa.int32()),
        ("text_id", pa.int64()),
    ]
)


class Store(Protocol):
    """Distinct texts of one encoding, wherever they are."""

    def __len__(self) -> int: ...

    @property
    def texts(self) -> pa.ChunkedArray: ...

    @property
    def text_ids(self) -> np.ndarray: ...

    @property
    def lengths(self) -> np.ndarray: ...

    @property
    def full_lengths(self) -> np.ndarray: ...

    def tokens(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...

    def whole_lengths(self, index: np.ndarray) -> np.ndarray: ...


class TextStore:
    """The distinct texts of one encoding (prompt, maximum length, tokenizer, special tokens).

    ids (file,) int32: a view of the whole file, of which text i is ids[starts[i]:starts[i] + lengths[i]]; lengths (N,) int64
    tokens after the cut; text_ids (N,) int64; full_lengths (N,) int32 tokens before the cut.
    """

    def __init__(self, path: Path) -> None:
        source = pa.memory_map(str(path))
        whole = source.read_buffer(source.size())
        source.seek(0)
        table = pa.ipc.open_file(source).read_all()
        self.ids = np.frombuffer(whole, np.int32, count=whole.size // 4)
        pieces = [_places(chunk, whole.address) for chunk in table["ids"].chunks]
        self.starts = np.concatenate([np.zeros(0, np.int64), *(starts for starts, _ in pieces)])
        self.lengths = np.concatenate([np.zeros(0, np.int64), *(lengths for _, lengths in pieces)])
        self.text_ids = table["text_id"].to_numpy()
        self.full_lengths = table["full_length"].to_numpy()
        self.texts: pa.ChunkedArray = table["text"]

    def __len__(self) -> int:
        return self.lengths.size

    def tokens(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(ids of some texts laid end to end, int64; (N,) int64 tokens of each)."""
        lengths = self.lengths[index]
        return self.ids[spread(self.starts[index], lengths)].astype(np.int64), lengths

    def whole_lengths(self, index: np.ndarray) -> np.ndarray:
        """(N,) int64 tokens that some texts have before they are cut."""
        return self.full_lengths[index].astype(np.int64)


def hashes(texts: Sequence[str], prompt: str) -> np.ndarray:
    """(N,) int64 hash of each text with its prompt: equal for equal inputs of a model."""
    found = np.fromiter((xxhash.xxh3_64_intdigest((prompt + text).encode()) for text in texts), np.uint64, len(texts))
    return found.view(np.int64)


def _places(chunk: pa.LargeListArray, base: int) -> tuple[np.ndarray, np.ndarray]:
    """(start of each list in units of int32 from `base`, its length). Arrow aligns buffers in a file to at least 8 bytes."""
    offsets = chunk.offsets.to_numpy()
    values = chunk.values
    if len(values) == 0:
        return np.zeros(len(chunk), np.int64), np.zeros(len(chunk), np.int64)
    first = (values.buffers()[1].address - base) // 4 + values.offset
    return first + offsets[:-1], np.diff(offsets)


def write_store(
    path: Path,
    texts: pa.Array,
    *,
    tokenizer: Any,
    prompt: str,
    max_length: int | None,
    special_tokens: bool,
    num_proc: int,
    progress: Callable[[int, int], None],
) -> None:
    """Tokenise distinct texts chunk by chunk into an Arrow file; memory does not grow with their number."""
    settings = (tokenizer, prompt, max_length, special_tokens)
    chunks = [texts.slice(start, CHUNK) for start in range(0, len(texts), CHUNK)]
    done = 0
    with pa.ipc.new_file(str(path), SCHEMA) as writer:
        for batch in _encoded(chunks, settings, num_proc):
            writer.write_batch(batch)
            done += batch.num_rows
            progress(done, len(texts))


def _encoded(chunks: list[pa.Array], settings: tuple[Any, str, int | None, bool], num_proc: int) -> Iterator[pa.RecordBatch]:
    if min(num_proc, len(chunks)) < 2:
        yield from (_encode(chunk, *settings) for chunk in chunks)
        return
    with ProcessPoolExecutor(min(num_proc, len(chunks)), get_context("spawn"), _start_worker, (settings,)) as pool:
        yield from pool.map(_work, chunks)


def _encode(texts: pa.Array, tokenizer: Any, prompt: str, max_length: int | None, special_tokens: bool) -> pa.RecordBatch:
    plain = texts.to_pylist()
    ids, full = tokenize_counted(tokenizer, plain, prompt=prompt, max_length=max_length, special_tokens=special_tokens)
    lengths = np.fromiter((len(i) for i in ids), np.int64, len(ids))
    flat = np.fromiter((token for text in ids for token in text), np.int32, int(lengths.sum()))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat), type=SCHEMA.field("ids").type)
    columns = [texts, lists, pa.array(np.array(full, np.int32)), pa.array(hashes(plain, prompt))]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


_worker_settings: tuple[Any, str, int | None, bool] | None = None


def _start_worker(settings: tuple[Any, str, int | None, bool]) -> None:
    global _worker_settings
    _worker_settings = settings


def _work(chunk: pa.Array) -> pa.RecordBatch:
    assert _worker_settings is not None
    return _encode(chunk, *_worker_settings)
