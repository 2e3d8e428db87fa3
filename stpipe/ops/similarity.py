"""How alike two embeddings are. Every function is higher for more alike texts; distances are negated.

Shape legend: N rows of a, P rows of b, D width of an embedding. All of it is done in at least fp32, also under autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from stpipe.ops import sparse
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

    dense_matrix, dense_paired: the formulas of ordinary tensors, with gradients. Sparse tensors (COO, CSR) go to those
    of ops/sparse.py, which have none. distance = zero - similarity, where zero is the similarity of equal rows, so that
    a distance is 0 for the same text (dot has no such value and takes 0).
    """

    name: str
    dense_matrix: Callable[[Tensor, Tensor], Tensor]
    dense_paired: Callable[[Tensor, Tensor], Tensor]
    zero: float = 0.0

    def matrix(self, a: Tensor, b: Tensor) -> Tensor:
        """(N, D), (P, D) -> (N, P); higher = more alike."""
        if sparse.is_sparse(a) or sparse.is_sparse(b):
            return sparse.compare(sparse.MATRIX[self.name], a, b)
        return self.dense_matrix(a, b)

    def paired(self, a: Tensor, b: Tensor) -> Tensor:
        """(N, D), (N, D) -> (N,); higher = more alike."""
        if sparse.is_sparse(a) or sparse.is_sparse(b):
            return sparse.compare(sparse.PAIRED[self.name], a, b)
        return self.dense_paired(a, b)

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


def cos_sim(a: Any, b: Any) -> Tensor:
    """(N, P) cosine similarity of every row of `a` (N, D) with every row of `b` (P, D); a single vector is one row."""
    return SIMILARITIES["cosine"].matrix(as_matrix(a), as_matrix(b))


def dot_score(a: Any, b: Any) -> Tensor:
    """(N, P) dot products of every row of `a` with every row of `b`."""
    return SIMILARITIES["dot"].matrix(as_matrix(a), as_matrix(b))


def euclidean_sim(a: Any, b: Any) -> Tensor:
    """(N, P) negative Euclidean distances of every row of `a` to every row of `b`."""
    return SIMILARITIES["euclidean"].matrix(as_matrix(a), as_matrix(b))


def manhattan_sim(a: Any, b: Any) -> Tensor:
    """(N, P) negative Manhattan distances of every row of `a` to every row of `b`."""
    return SIMILARITIES["manhattan"].matrix(as_matrix(a), as_matrix(b))


def pairwise_cos_sim(a: Any, b: Any) -> Tensor:
    """(N,) cosine similarity of row i of `a` with row i of `b`."""
    return SIMILARITIES["cosine"].paired(as_tensor(a), as_tensor(b))


def pairwise_dot_score(a: Any, b: Any) -> Tensor:
    """(N,) dot product of row i of `a` with row i of `b`."""
    return SIMILARITIES["dot"].paired(as_tensor(a), as_tensor(b))


def pairwise_euclidean_sim(a: Any, b: Any) -> Tensor:
    """(N,) negative Euclidean distance of row i of `a` to row i of `b`."""
    return SIMILARITIES["euclidean"].paired(as_tensor(a), as_tensor(b))


def pairwise_manhattan_sim(a: Any, b: Any) -> Tensor:
    """(N,) negative Manhattan distance of row i of `a` to row i of `b`."""
    return SIMILARITIES["manhattan"].paired(as_tensor(a), as_tensor(b))


def pairwise_angle_sim(a: Any, b: Any) -> Tensor:
    """(N,) angle similarity of row i of `a` with row i of `b` (see `angle_paired`)."""
    return angle_paired(densify(as_tensor(a)), densify(as_tensor(b)))
