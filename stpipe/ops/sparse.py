"""Sparse embeddings: rows of a CSR matrix, compared without ever holding a dense (N, D) copy of them.

Products are left to scipy (a walk over the shared dimensions in compiled code); sums run in float64 in the order of the
dimensions, so a score does not depend on which other rows were in the same call. There are no gradients: training works
on dense (N, V) representations.

Shape legend: N rows of a, P rows of b, D dimensions (the vocabulary), K dimensions that are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from stpipe.config.errors import TrainingError

Floats = NDArray[np.float64]
#: scipy has no type information; every CSR here is a scipy.sparse.csr_array of float64 with sorted indices.
Csr = Any


def is_sparse(x: Tensor) -> bool:
    """True for every layout but the ordinary one: COO, CSR, CSC and their block forms."""
    return x.layout is not torch.strided


def to_csr(x: Any) -> Csr:
    """(N, D) CSR in float64 with sorted indices and no stored zeros; the input is left alone.

    Args:
        x: torch tensor (COO, CSR or dense), numpy array or scipy matrix of two dimensions; one dimension is one row.
    """
    if isinstance(x, Tensor):
        x = _from_torch(x.detach())
    found = sparse.csr_array(np.atleast_2d(x) if isinstance(x, np.ndarray) else x, dtype=np.float64, copy=True)
    found.sum_duplicates()
    found.eliminate_zeros()
    return found


def _from_torch(x: Tensor) -> Any:
    """What scipy and numpy can hold: CSR parts of sparse rows, else an array."""
    x = x.unsqueeze(0) if x.dim() == 1 else x
    if not is_sparse(x):
        return x.double().cpu().numpy()
    if x.layout is not torch.sparse_csr:
        x = x.to_sparse_coo().coalesce().cpu()
        rows, dims = x.indices().numpy()
        return sparse.csr_array((x.values().double().numpy(), dims, starts_of(rows, x.shape[0])), shape=tuple(x.shape))
    parts = (x.values().double().cpu().numpy(), x.col_indices().cpu().numpy(), x.crow_indices().cpu().numpy())
    return sparse.csr_array(parts, shape=tuple(x.shape))


def starts_of(rows: NDArray[np.int64], num_rows: int) -> NDArray[np.int64]:
    """(N + 1,) where each row's entries start, from the row of every entry in rising order."""
    return np.concatenate([[0], np.bincount(rows, minlength=num_rows).cumsum()])


def unit_rows(x: Csr) -> Csr:
    """Rows of length 1; a row without entries stays as it is."""
    norm = np.sqrt(square_sums(x))
    return scaled_rows(x, 1.0 / np.where(norm > 0, norm, 1.0))


def scaled_rows(x: Csr, factors: Floats) -> Csr:
    """Row i times factors[i]."""
    return sparse.csr_array((x.data * np.repeat(factors, np.diff(x.indptr)), x.indices, x.indptr), shape=x.shape)


def square_sums(x: Csr) -> Floats:
    """(N,) squared length of each row."""
    return np.asarray(x.multiply(x).sum(axis=1), dtype=np.float64)


def keep_largest(x: Csr, dims: int) -> Csr:
    """The `dims` entries of greatest magnitude of each row; of equal ones the lower dimension is kept.

    As `max_active_dims` of a sparse encoder. Rows with fewer entries keep what they have.
    """
    counts = np.diff(x.indptr)
    if not (counts > dims).any():
        return x
    row = np.repeat(np.arange(x.shape[0]), counts)
    order = np.lexsort((x.indices, -np.abs(x.data), row))
    rank = np.arange(len(order)) - np.repeat(x.indptr[:-1], counts)
    kept = np.sort(order[rank < dims])
    return sparse.csr_array((x.data[kept], x.indices[kept], starts_of(row[kept], x.shape[0])), shape=x.shape)


# --- similarities: the same measures as in ops/similarity.py -----------------------------------------------------------


def dot_matrix(a: Csr, b: Csr) -> Floats:
    """(N, P) a_i . b_j."""
    return np.asarray((a @ b.T).toarray(), dtype=np.float64)


def dot_paired(a: Csr, b: Csr) -> Floats:
    """(N,) a_i . b_i."""
    return np.asarray(a.multiply(b).sum(axis=1), dtype=np.float64)


def cosine_matrix(a: Csr, b: Csr) -> Floats:
    """(N, P) cos(a_i, b_j); 0 where a row has no entries."""
    return dot_matrix(unit_rows(a), unit_rows(b))


def cosine_paired(a: Csr, b: Csr) -> Floats:
    """(N,) cos(a_i, b_i)."""
    return dot_paired(unit_rows(a), unit_rows(b))


def euclidean_matrix(a: Csr, b: Csr) -> Floats:
    """(N, P) -|a_i - b_j|_2 from |a|^2 + |b|^2 - 2ab; rows closer than 1e-7 of their lengths count as equal, as for dense ones."""
    lengths = square_sums(a)[:, None] + square_sums(b)[None, :]
    squared = lengths - 2 * dot_matrix(a, b)
    return -np.sqrt(np.where(squared > 1e-14 * lengths, squared, 0.0))


def euclidean_paired(a: Csr, b: Csr) -> Floats:
    """(N,) -|a_i - b_i|_2."""
    return -np.sqrt(square_sums(a - b))


def manhattan_matrix(a: Csr, b: Csr) -> Floats:
    """(N, P) -|a_i - b_j|_1 as |x| + |y| minus what shared dimensions save.

    |x - y| = |x| + |y| where only one of them is not zero, so only entries of shared dimensions are looked at:
    each row of a walks over the rows of b that have its dimensions.
    """
    lists = sparse.csr_array(b.T)
    sums = np.asarray(abs(b).sum(axis=1), dtype=np.float64)
    found = np.empty((a.shape[0], b.shape[0]))
    for i in range(a.shape[0]):
        entries = slice(a.indptr[i], a.indptr[i + 1])
        own = a.data[entries]
        shared = lists[a.indices[entries]]
        x, y = np.repeat(own, np.diff(shared.indptr)), shared.data
        saved = np.bincount(shared.indices, weights=np.abs(x) + np.abs(y) - np.abs(x - y), minlength=b.shape[0])
        found[i] = saved - sums - np.abs(own).sum()
    return np.minimum(found, 0.0)


def manhattan_paired(a: Csr, b: Csr) -> Floats:
    """(N,) -|a_i - b_i|_1."""
    return -np.asarray(abs(a - b).sum(axis=1), dtype=np.float64)


MATRIX: dict[str, Callable[[Csr, Csr], Floats]] = {
    "cosine": cosine_matrix,
    "dot": dot_matrix,
    "euclidean": euclidean_matrix,
    "manhattan": manhattan_matrix,
}
PAIRED: dict[str, Callable[[Csr, Csr], Floats]] = {
    "cosine": cosine_paired,
    "dot": dot_paired,
    "euclidean": euclidean_paired,
    "manhattan": manhattan_paired,
}


def compare(measure: Callable[[Csr, Csr], Floats], a: Tensor, b: Tensor) -> Tensor:
    """A measure of two tensors, at least one of them sparse: a dense tensor in their precision, on the device of `a`.

    A pair of single vectors (D,) has a single similarity, as with dense tensors.
    """
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        raise TrainingError(
            "similarities of sparse tensors have no gradient; make them dense (x.to_dense()) or compute under torch.no_grad()"
        )
    dtype = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    found = torch.from_numpy(measure(to_csr(a), to_csr(b))).to(device=a.device, dtype=dtype)
    return found[0] if a.dim() == b.dim() == 1 and found.dim() == 1 else found
