"""Embeddings on disk, so that no text is encoded twice by the same model, and a killed run goes on in the middle of a corpus.

Shape legend: N texts, D width of an embedding.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray
from scipy import sparse

from stpipe.config.errors import ConfigError, TrainingError
from stpipe.core.digest import digest
from stpipe.ops.sparse import Csr, to_csr
from stpipe.search.shards import Arrays, Shards

SHARD = 2048  # texts: lost at most when a process is killed; 3 MB of 384 dimensions
TEXTS = "texts"

Ints = NDArray[np.int64]
#: Called with (what, done, total).
Progress = Callable[[str, int, int], None]
R = TypeVar("R")


class Rows(Protocol[R]):
    """How embeddings (N, D) of one kind are kept in a shard."""

    def arrays(self, values: Any) -> Arrays:
        """What `encode` returned, as arrays by name; finite or an error."""
        ...

    def opened(self, arrays: Arrays) -> R:
        """Rows over the (memory-mapped) arrays."""
        ...

    def gathered(self, parts: Sequence[R], part: Ints, row: Ints) -> R:
        """Row row[i] of parts[part[i]], in memory."""
        ...


class DenseRows:
    """float32 arrays (N, D)."""

    def arrays(self, values: Any) -> Arrays:
        rows = np.ascontiguousarray(values, dtype=np.float32)
        refuse_bad(np.asarray(~np.isfinite(rows).all(axis=1)))
        return {"vectors": rows}

    def opened(self, arrays: Arrays) -> NDArray[np.float32]:
        return arrays["vectors"]

    def gathered(self, parts: Sequence[NDArray[np.float32]], part: Ints, row: Ints) -> NDArray[np.float32]:
        out = np.empty((len(part), parts[0].shape[1]), np.float32)
        for number in np.unique(part):
            chosen = part == number
            out[chosen] = parts[number][row[chosen]]
        return out


class SparseRows:
    """CSR matrices; weights are kept in float32."""

    def arrays(self, values: Any) -> Arrays:
        rows = to_csr(values)
        refuse_bad(np.array([not np.isfinite(rows.data[a:b]).all() for a, b in zip(rows.indptr[:-1], rows.indptr[1:], strict=True)]))
        shape = np.array(rows.shape, np.int64)
        return {"weights": rows.data.astype(np.float32), "dims": rows.indices, "starts": rows.indptr, "shape": shape}

    def opened(self, arrays: Arrays) -> Csr:
        return sparse.csr_array((arrays["weights"], arrays["dims"], arrays["starts"]), shape=tuple(arrays["shape"]))

    def gathered(self, parts: Sequence[Csr], part: Ints, row: Ints) -> Csr:
        used = np.unique(part)
        found = sparse.vstack([parts[number][row[part == number]] for number in used], format="csr")
        order = np.concatenate([np.flatnonzero(part == number) for number in used])
        return sparse.csr_array(found)[np.argsort(order)]


def refuse_bad(bad: NDArray[np.bool_]) -> None:
    """Rows with NaN or infinities would be the neighbours of nothing, or of everything."""
    if bad.any():
        raise TrainingError(
            f"the model gives embeddings with NaN or infinite values for {int(bad.sum())} of {bad.size} texts (the first is number "
            f"{int(bad.argmax())} of this part); it has diverged, or computes in a precision that is too low"
        )


DENSE = DenseRows()
SPARSE = SparseRows()


class Stored(Generic[R]):
    """Embeddings of N texts in their order, read from shards a chunk at a time: `stored[10:20]`, `stored[numbers]`."""

    def __init__(self, rows: Rows[R], parts: Sequence[R], part: Ints, row: Ints) -> None:
        self._rows, self._parts, self._part, self._row = rows, parts, part, row

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, key: slice | Ints) -> R:
        return self._rows.gathered(self._parts, self._part[key], self._row[key])


class EmbeddingCache:
    """Embeddings by the hash of their text, for one way of encoding.

    Args:
        root: folder of all caches.
        identity: says which model it is (`stpipe.core.digest.folder_digest` of its directory, or a hash of its weights).
        way: prompt, route and whatever else changes an embedding; any JSON values.
        rows: DENSE or SPARSE, what `encode` returns.
        shard_size: texts that are encoded at once and lost when a process is killed.
    """

    def __init__(self, root: Path, *, identity: str, way: Sequence[Any] = (), rows: Rows[Any] = DENSE, shard_size: int = SHARD) -> None:
        if shard_size < 1:
            raise ConfigError(f"EmbeddingCache: shard_size is {shard_size}; expected at least 1 text")
        self.shards = Shards(root / digest([identity, *way]))
        self.rows = rows
        self.shard_size = shard_size

    def embed(
        self,
        texts: Sequence[str],
        encode: Callable[[list[str]], Any],
        *,
        what: str = "encode",
        progress: Progress | None = None,
    ) -> Stored[Any]:
        """Embeddings (N, D) of the texts; those that no whole shard holds are encoded now, a shard at a time.

        Processes that ask at once do the work one after the other, each using what the one before has stored. The same
        texts give the same shards whether or not the work was interrupted.

        Args:
            texts: any texts, also repeated ones.
            encode: texts -> what `rows` keeps; called with at most shard_size distinct texts.
            what: of messages to `progress`.
            progress: called with (what, texts done, texts in all).

        Raises:
            TrainingError: an embedding holds NaN or infinities. ConfigError: the folder cannot be written.
        """
        hashes = text_hashes(texts)
        with self.shards.lock():
            whole = self.shards.numbers()
            missing = self._missing(texts, hashes, whole)
            done = len(texts) - len(missing)
            for start in range(0, len(missing), self.shard_size):
                part = missing[start : start + self.shard_size]
                number = next(n for n in itertools.count() if n not in whole)
                self.shards.write(number, {TEXTS: text_hashes(part), **self.rows.arrays(encode(part))})
                whole.append(number)
                done += len(part)
                if progress is not None:
                    progress(what, done, len(texts))
        return self._stored(hashes, sorted(whole))

    def _missing(self, texts: Sequence[str], hashes: NDArray[np.uint64], whole: Sequence[int]) -> list[str]:
        """The distinct texts without an embedding, in their order."""
        absent = places_of(hashes, self._known(self._opened(whole))) < 0
        return list(dict.fromkeys(texts[i] for i in np.flatnonzero(absent).tolist()))

    def _stored(self, hashes: NDArray[np.uint64], whole: Sequence[int]) -> Stored[Any]:
        opened = self._opened(whole)
        sizes = np.array([len(arrays[TEXTS]) for arrays in opened], np.int64)
        places = places_of(hashes, self._known(opened))
        part = np.repeat(np.arange(len(sizes)), sizes)[places]
        starts = np.cumsum(sizes) - sizes
        return Stored(self.rows, [self.rows.opened(arrays) for arrays in opened], part, places - starts[part])

    def _opened(self, whole: Sequence[int]) -> list[Arrays]:
        return [self.shards.read(number) for number in whole]

    @staticmethod
    def _known(opened: Sequence[Arrays]) -> NDArray[np.uint64]:
        """(M, 2) hashes of all texts that shards hold."""
        return np.concatenate([np.zeros((0, 2), np.uint64), *(arrays[TEXTS] for arrays in opened)])


def text_hashes(texts: Sequence[str]) -> NDArray[np.uint64]:
    """(N, 2) 128-bit hash of each text."""
    data = b"".join(xxhash.xxh3_128_digest(text.encode("utf-8", "surrogatepass")) for text in texts)
    return np.frombuffer(data, np.uint64).reshape(-1, 2)


def places_of(hashes: NDArray[np.uint64], known: NDArray[np.uint64]) -> Ints:
    """(N,) place of each hash among the known ones, -1 where it is not."""
    values, table = (
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows).tobytes())])
        for rows in (hashes, known)
    )
    found: Ints = pc.fill_null(pc.index_in(values, value_set=table), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return found
