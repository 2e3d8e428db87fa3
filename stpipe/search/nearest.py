"""What every search among embeddings returns, and the exact scores of what it found.

Shape legend: Q queries, N documents, K ranks, D width; q queries of one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpipe.config.errors import ConfigError, DataError
from stpipe.ops.similarity import SIMILARITIES
from stpipe.search.top_k import EMPTY, NO_DOC, decode_keys, keys_of

CELLS = 4_000_000  # float64 numbers (query, rank, dimension) of one step of rescoring: 32 MB
UNIT = 2.0**-24  # relative rounding error of float32


class Vectors(Protocol):
    """Rows (N, D) of float32 that are read in parts: an array, a memory map, or `embedding_cache.Stored`."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True)
class Neighbours:
    """Documents found for each query, best first.

    docs (Q, K) int64 document numbers, NO_DOC behind the last; scores (Q, K) float32 similarities, -inf there.
    """

    docs: NDArray[np.int64]
    scores: NDArray[np.float32]


def rows_of(vectors: Vectors, key: Any, what: str) -> NDArray[np.float32]:
    """Some rows (n, D) in memory; NaN and infinities are refused, because they have no nearest neighbours."""
    rows = np.asarray(vectors[key], dtype=np.float32)
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        first = int(bad.argmax()) + (key.start or 0 if isinstance(key, slice) else 0)
        raise DataError(f"{what} {first} has an embedding with NaN or infinite values; encode it again, or leave the text out")
    return rows


def chunks(total: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` over 0 .. total."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1; a row of zeros stays zero."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


def longest(rows: NDArray[np.float32]) -> float:
    """Length of the longest row."""
    return float(np.linalg.norm(rows.astype(np.float64), axis=1).max(initial=0.0))


def pair_scores(name: str, a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) similarity of row i of a and row i of b, computed in float64 and rounded once."""
    return SIMILARITIES[name].paired(torch.from_numpy(a).double(), torch.from_numpy(b).double()).float().numpy()


def rescored(queries: NDArray[np.float32], corpus: Vectors, docs: NDArray[np.int64], *, unit: bool, depth: int) -> Neighbours:
    """The best `depth` of the documents (Q, M) found for each query, by dot products in float64, equal ones by number.

    Memory grows with M x D, not with Q.

    Args:
        queries: (Q, D).
        corpus: (N, D), of which the documents found are read.
        docs: (Q, M) numbers; NO_DOC is never among the best.
        unit: divide by the lengths of both, which makes it the cosine.
        depth: documents to keep.
    """
    keys = np.full(docs.shape, EMPTY)
    step = max(1, CELLS // max(1, docs.shape[1] * queries.shape[1]))
    for rows in chunks(len(docs), step):
        numbers = np.maximum(docs[rows], 0)
        found = rows_of(corpus, numbers.reshape(-1), "document").reshape(*numbers.shape, -1).astype(np.float64)
        asked = queries[rows].astype(np.float64)
        scores = np.matmul(found, asked[:, :, None])[:, :, 0]
        if unit:
            lengths = np.linalg.norm(found, axis=2) * np.linalg.norm(asked, axis=1)[:, None]
            scores = scores / np.where(lengths > 0, lengths, 1.0)
        exact = keys_of(torch.from_numpy(scores), torch.from_numpy(numbers)).numpy()
        keys[rows] = np.where(docs[rows] == NO_DOC, EMPTY, exact)
    best = np.sort(keys, axis=1)[:, ::-1][:, :depth]
    return Neighbours(*decode_keys(torch.from_numpy(best.copy())))


def uncertain(found: Neighbours, outside: NDArray[np.float32], *, bound: float) -> NDArray[np.int64]:
    """Queries whose last document might have been beaten by one that the float32 pass left out.

    Args:
        found: exact scores.
        outside: (Q,) float32 score that no document outside of what was rescored exceeds; -inf where there is none.
        bound: how far a float32 score may be from the exact one.
    """
    last = found.scores[:, -1].astype(np.float64)
    return np.flatnonzero(~((last > outside.astype(np.float64) + bound) | np.isneginf(outside)))


def product_bound(width: int, query_length: float, doc_length: float) -> float:
    """Bound on the error of a dot product in float32: (D + 16) u |q| |d|, in any order of summation.

    Higham, Accuracy and Stability of Numerical Algorithms (2002), section 3.1, D u |q| |d|; 16 more roundings pay for
    normalised rows and for the rounding of the exact scores.
    """
    return (width + 16) * UNIT * query_length * doc_length


def known_similarity(name: str, allowed: tuple[str, ...], what: str) -> str:
    """The name, when this search serves it."""
    if name not in allowed:
        raise ConfigError(f"{what} searches by {', '.join(allowed)}; the model's similarity is '{name}'")
    return name


def on_device(rows: NDArray[np.float32], device: torch.device) -> Tensor:
    """A tensor of the rows."""
    return torch.from_numpy(rows).to(device)
