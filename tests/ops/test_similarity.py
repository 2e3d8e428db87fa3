"""Similarities against loops, against the documented functions of sentence-transformers, and at their corners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import util as st_util
from torch import Tensor

from stpipe.ops import similarity as S
from tests.losses import naive

NAMES = ("cosine", "dot", "euclidean", "manhattan")
MATRIX = ("cos_sim", "dot_score", "euclidean_sim", "manhattan_sim")
PAIRED = ("pairwise_cos_sim", "pairwise_dot_score", "pairwise_euclidean_sim", "pairwise_manhattan_sim", "pairwise_angle_sim")


def ours(name: str) -> Callable[[Any, Any], Tensor]:
    return getattr(S, name)  # type: ignore[no-any-return]


def theirs(name: str) -> Callable[[Any, Any], Tensor]:
    return getattr(st_util, name)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrix_and_paired_are_the_loop(name: str, dtype: torch.dtype) -> None:
    a, b = torch.randn(5, 7, dtype=dtype), torch.randn(4, 7, dtype=dtype)
    similarity = S.SIMILARITIES[name]
    expected = torch.tensor([[float(naive.SIMILARITY[name](x, y)) for y in b.double()] for x in a.double()])
    found = similarity.matrix(a, b)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(similarity.paired(a[:4], b), found.diagonal()[:4], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_more_alike_is_higher_and_distance_is_the_other_way_round(name: str) -> None:
    a = torch.nn.functional.normalize(torch.randn(6, 8), dim=-1)
    near, far = a + 0.01, -a
    similarity = S.SIMILARITIES[name]
    assert (similarity.paired(a, near) > similarity.paired(a, far)).all()
    assert (similarity.distance_paired(a, near) < similarity.distance_paired(a, far)).all()
    torch.testing.assert_close(similarity.distance_matrix(a, far), similarity.zero - similarity.matrix(a, far))
    if name != "dot":
        torch.testing.assert_close(similarity.distance_paired(a, a), torch.zeros(6), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_scored_in_fp32_even_under_autocast(name: str, dtype: torch.dtype) -> None:
    a, b = torch.randn(9, 16).to(dtype), torch.randn(5, 16).to(dtype)
    similarity = S.SIMILARITIES[name]
    exact = similarity.matrix(a.double(), b.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, full = similarity.matrix(a, b), similarity.matrix(a.float(), b.float())
        pairs = similarity.paired(a[:5], b)
    assert found.dtype == full.dtype == pairs.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(full.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pairs.double(), exact.diagonal(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_equal_and_zero_rows_have_finite_gradients(name: str) -> None:
    rows = torch.stack([torch.zeros(4), torch.ones(4), torch.ones(4)]).requires_grad_()
    similarity = S.SIMILARITIES[name]
    for value in (similarity.matrix(rows, rows).sum(), similarity.paired(rows, rows).sum()):
        assert torch.isfinite(value)
        (grad,) = torch.autograd.grad(value, rows)
        assert torch.isfinite(grad).all()
        assert float(grad.abs().max()) < 100


def test_euclidean_distance_of_near_rows_does_not_cancel() -> None:
    """Rows of length 20 that differ by 1e-4: by |a|^2 + |b|^2 - 2ab in fp32 the distance would be noise."""
    torch.manual_seed(0)
    a = torch.randn(64, 384)
    b = a + 1e-4 * torch.randn(64, 384)
    exact = (a.double() - b.double()).norm(dim=-1)
    torch.testing.assert_close(-S.euclidean_matrix(a, b).diagonal().double(), exact, rtol=1e-4, atol=0)
    by_product = torch.cdist(a, b, compute_mode="use_mm_for_euclid_dist").diagonal().double()
    assert float((by_product / exact - 1).abs().max()) > 0.1


# --- the documented functions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MATRIX + PAIRED)
@pytest.mark.parametrize("kind", ["tensor", "numpy", "lists", "list_of_tensors", "list_of_arrays", "half", "read_only"])
def test_documented_functions_agree_with_sentence_transformers(name: str, kind: str) -> None:
    g = np.random.default_rng(0)
    a, b = g.normal(size=(5, 7)).astype(np.float32), g.normal(size=(5, 7)).astype(np.float32)
    make: dict[str, Callable[[np.ndarray], Any]] = {
        "tensor": torch.tensor,
        "numpy": lambda x: x,
        "lists": lambda x: x.tolist(),
        "list_of_tensors": lambda x: list(torch.tensor(x)),
        "list_of_arrays": list,
        "half": lambda x: torch.tensor(x).bfloat16(),
        "read_only": lambda x: np.broadcast_to(x, x.shape),
    }
    x, y = make[kind](a), make[kind](b)
    torch.testing.assert_close(ours(name)(x, y), theirs(name)(x, y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MATRIX)
def test_a_single_vector_is_one_row(name: str) -> None:
    a, b = torch.randn(7), torch.randn(3, 7)
    assert ours(name)(a, b).shape == (1, 3)
    torch.testing.assert_close(ours(name)(a, b), theirs(name)(a, b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MATRIX + PAIRED)
@pytest.mark.parametrize("layouts", ["sparse-sparse", "sparse-dense", "dense-sparse"])
def test_sparse_embeddings(name: str, layouts: str) -> None:
    a, b = torch.randn(4, 30).relu(), torch.randn(4, 30).relu()
    a[1] = 0  # a text that activates nothing
    left, right = (x.to_sparse() if kind == "sparse" else x for kind, x in zip(layouts.split("-"), (a, b), strict=True))
    found = ours(name)(left, right)
    assert not found.is_sparse
    torch.testing.assert_close(found, ours(name)(a, b), rtol=1e-4, atol=1e-4)


def test_angle_with_an_odd_width() -> None:
    a, b = torch.randn(5, 7), torch.randn(5, 7)
    expected = torch.stack([naive.angle(x, y) for x, y in zip(a.double(), b.double(), strict=True)])
    torch.testing.assert_close(S.pairwise_angle_sim(a, b).double(), expected, rtol=1e-5, atol=1e-6)
