"""How alike two embeddings are. Every function is higher for more alike texts; distances are negated.

Shape legend: N rows of a, P rows of b, D width of an embedding. All of it is done in at least fp32, also under autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from stpipe.ops.convert import as_matrix, as_tensor, densify, full_precision, upcast

SimilarityName = Literal["cosine", "dot", "euclidean", "manhattan"]
MetricName = Literal["cosine", "euclidean", "manhattan"]


def normalize(x: Tensor) -> Tensor:
    """Rows (..., D) of length 1; a row of zeros stays zero, with a gradient that is finite."""
    x = upcast(x)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(norm > 0, norm, torch.ones_like(norm))


def cosine_matrix(a: Tensor, b: Tensor) -> Tensor:
    """(N, P) cos(a_i, b_j)."""
    return dot_matrix(normalize(a), normalize(b))


def cosine_paired(a: Tensor, b: Tensor) -> Tensor:
    """(N,) cos(a_i, b_i)."""
    return dot_paired(normalize(a), normalize(b))


def dot_matrix(a: Tensor, b: Tensor) -> Tensor:
    """(N, P) a_i . b_j."""
    with full_precision(a):
        return upcast(a) @ upcast(b).transpose(-1, -2)


def dot_paired(a: Tensor, b: Tensor) -> Tensor:
    """(N,) a_i . b_i."""
    return (upcast(a) * upcast(b)).sum(-1)


def euclidean_matrix(a: Tensor, b: Tensor) -> Tensor:
    """(N, P) -|a_i - b_j|_2; the gradient of equal rows is zero.

    |a|^2 + |b|^2 - 2ab, one matrix product instead of N P differences, cancels for near rows: in fp32 a text is up to 1e-3
    of its length away from itself. In float64 it is 1e-7, less than fp32 can tell, and below that rows count as equal.
    """
    dtype = upcast(a).dtype
    with full_precision(a):
        if a.device.type == "mps":  # has no float64
            return -torch.cdist(upcast(a), upcast(b), compute_mode="donot_use_mm_for_euclid_dist")
        a, b = a.double(), b.double()
        lengths = a.square().sum(-1)[:, None] + b.square().sum(-1)[None, :]
        squared = lengths - 2 * (a @ b.transpose(0, 1))
        apart = squared.detach() > 1e-14 * lengths.detach()
        return -torch.where(apart, squared, 1.0).sqrt().masked_fill(~apart, 0.0).to(dtype)


def euclidean_paired(a: Tensor, b: Tensor) -> Tensor:
    """(N,) -|a_i - b_i|_2; the gradient of equal rows is zero."""
    return -torch.linalg.vector_norm(upcast(a) - upcast(b), dim=-1)


def manhattan_matrix(a: Tensor, b: Tensor) -> Tensor:
    """(N, P) -|a_i - b_j|_1."""
    with full_precision(a):
        return -torch.cdist(upcast(a), upcast(b), p=1.0)


def manhattan_paired(a: Tensor, b: Tensor) -> Tensor:
    """(N,) -|a_i - b_i|_1."""
    return -(upcast(a) - upcast(b)).abs().sum(-1)


def angle_paired(a: Tensor, b: Tensor) -> Tensor:
    """(N,) angle similarity: rows as complex numbers z (real half, imaginary half), |Re + Im of sum(z_a conj(z_b))| / (|a| |b|).

    An odd D gets one zero. Source: AnglE, arXiv:2309.12871, section "Angle Objective"; the quotient z_a / z_b there is
    z_a conj(z_b) / |z_b|^2, and its normalisation makes it this.
    """
    a, b = normalize(a), normalize(b)
    if a.shape[-1] % 2:
        a, b = (torch.nn.functional.pad(x, (0, 1)) for x in (a, b))
    (re_a, im_a), (re_b, im_b) = a.chunk(2, dim=-1), b.chunk(2, dim=-1)
    return ((re_a * re_b + im_a * im_b) + (im_a * re_b - re_a * im_b)).sum(-1).abs()


@dataclass(frozen=True)
class Similarity:
    """One measure in both forms, and the distance that belongs to it.

    matrix: (N, D), (P, D) -> (N, P); paired: (N, D), (N, D) -> (N,); distance = zero - similarity, where zero is the
    similarity of equal rows, so that a distance is 0 for the same text (dot has no such value and takes 0).
    """

    name: str
    matrix: Callable[[Tensor, Tensor], Tensor]
    paired: Callable[[Tensor, Tensor], Tensor]
    zero: float = 0.0

    def distance_matrix(self, a: Tensor, b: Tensor) -> Tensor:
        """(N, P); lower = more alike."""
        return self.zero - self.matrix(a, b)

    def distance_paired(self, a: Tensor, b: Tensor) -> Tensor:
        """(N,); lower = more alike."""
        return self.zero - self.paired(a, b)


SIMILARITIES: dict[str, Similarity] = {
    s.name: s
    for s in (
        Similarity("cosine", cosine_matrix, cosine_paired, zero=1.0),
        Similarity("dot", dot_matrix, dot_paired),
        Similarity("euclidean", euclidean_matrix, euclidean_paired),
        Similarity("manhattan", manhattan_matrix, manhattan_paired),
    )
}


# --- the documented helper functions: any input, one vector or many, dense or sparse --------------------------------


def _matrix(name: str, a: Any, b: Any) -> Tensor:
    a, b = as_matrix(a), as_matrix(b)
    if a.is_sparse or b.is_sparse:
        return SPARSE_MATRIX[name](a, b)
    return SIMILARITIES[name].matrix(a, b)


def _paired(paired: Callable[[Tensor, Tensor], Tensor], a: Any, b: Any) -> Tensor:
    return paired(densify(as_tensor(a)), densify(as_tensor(b)))


def _sparse_dot(a: Tensor, b: Tensor) -> Tensor:
    """(N, P); the product of two sparse matrices never holds an (N, D) dense one."""
    if a.is_sparse:
        return densify(torch.sparse.mm(a, b.transpose(0, 1)))
    return densify(torch.sparse.mm(b, a.transpose(0, 1))).transpose(0, 1)


def _squared_norms(x: Tensor) -> Tensor:
    """(N,)"""
    return torch.sparse.sum(x * x, dim=1).to_dense() if x.is_sparse else (x * x).sum(1)


def _sparse_cosine(a: Tensor, b: Tensor) -> Tensor:
    norms = _squared_norms(a).sqrt()[:, None] * _squared_norms(b).sqrt()[None, :]
    return _sparse_dot(a, b) / torch.where(norms > 0, norms, torch.ones_like(norms))


def _sparse_euclidean(a: Tensor, b: Tensor) -> Tensor:
    squared = _squared_norms(a)[:, None] + _squared_norms(b)[None, :] - 2 * _sparse_dot(a, b)
    return -squared.clamp(min=0).sqrt()


def _sparse_manhattan(a: Tensor, b: Tensor) -> Tensor:
    """Row by row of a, so that one dense copy of b is the only large thing."""
    dense = densify(b)
    return torch.cat([manhattan_matrix(densify(a[i])[None, :], dense) for i in range(a.shape[0])])


SPARSE_MATRIX: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": _sparse_cosine,
    "dot": _sparse_dot,
    "euclidean": _sparse_euclidean,
    "manhattan": _sparse_manhattan,
}


def cos_sim(a: Any, b: Any) -> Tensor:
    """(N, P) cosine similarity of every row of `a` (N, D) with every row of `b` (P, D); a single vector is one row."""
    return _matrix("cosine", a, b)


def dot_score(a: Any, b: Any) -> Tensor:
    """(N, P) dot products of every row of `a` with every row of `b`."""
    return _matrix("dot", a, b)


def euclidean_sim(a: Any, b: Any) -> Tensor:
    """(N, P) negative Euclidean distances of every row of `a` to every row of `b`."""
    return _matrix("euclidean", a, b)


def manhattan_sim(a: Any, b: Any) -> Tensor:
    """(N, P) negative Manhattan distances of every row of `a` to every row of `b`."""
    return _matrix("manhattan", a, b)


def pairwise_cos_sim(a: Any, b: Any) -> Tensor:
    """(N,) cosine similarity of row i of `a` with row i of `b`."""
    return _paired(cosine_paired, a, b)


def pairwise_dot_score(a: Any, b: Any) -> Tensor:
    """(N,) dot product of row i of `a` with row i of `b`."""
    return _paired(dot_paired, a, b)


def pairwise_euclidean_sim(a: Any, b: Any) -> Tensor:
    """(N,) negative Euclidean distance of row i of `a` to row i of `b`."""
    return _paired(euclidean_paired, a, b)


def pairwise_manhattan_sim(a: Any, b: Any) -> Tensor:
    """(N,) negative Manhattan distance of row i of `a` to row i of `b`."""
    return _paired(manhattan_paired, a, b)


def pairwise_angle_sim(a: Any, b: Any) -> Tensor:
    """(N,) angle similarity of row i of `a` with row i of `b` (see `angle_paired`)."""
    return _paired(angle_paired, a, b)
