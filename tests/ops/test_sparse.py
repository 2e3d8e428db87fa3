"""Sparse similarities against float64 loops and sentence-transformers, and without a dense copy of the matrix."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from scipy import sparse as sp
from sentence_transformers import util as st_util
from torch import Tensor

from stpipe.config.errors import TrainingError
from stpipe.ops import sparse as S
from stpipe.ops.similarity import SIMILARITIES
from tests.losses import naive

NAMES = ("cosine", "dot", "euclidean", "manhattan")
THEIRS = {"cosine": "cos_sim", "dot": "dot_score", "euclidean": "euclidean_sim", "manhattan": "manhattan_sim"}


def rows(count: int, width: int = 40, *, seed: int = 0, share: float = 0.2, negative: bool = False) -> Tensor:
    """(count, width) mostly zero; the second row has no entry at all."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(count, width, generator=generator) + 0.05
    if negative:
        values *= torch.randint(0, 2, values.shape, generator=generator) * 2 - 1
    values[torch.rand(count, width, generator=generator) > share] = 0
    values[1] = 0
    return values


LAYOUTS = {"coo": lambda x: x.to_sparse_coo(), "csr": lambda x: x.to_sparse_csr(), "dense": lambda x: x}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layouts", ["coo-coo", "csr-csr", "coo-dense", "dense-csr"])
@pytest.mark.parametrize("negative", [False, True])
def test_similarities_are_the_loop(name: str, layouts: str, negative: bool) -> None:
    a, b = rows(6, negative=negative), rows(6, seed=1, negative=negative)
    left, right = (LAYOUTS[layout](x) for layout, x in zip(layouts.split("-"), (a, b), strict=True))
    exact = torch.tensor([[float(naive.SIMILARITY[name](x, y)) for y in b.double()] for x in a.double()], dtype=torch.float64)
    exact = exact.nan_to_num()  # the loop divides by the length of the empty row
    found, pairs = SIMILARITIES[name].matrix(left, right), SIMILARITIES[name].paired(left, right)
    assert found.dtype == pairs.dtype == torch.float32 and not S.is_sparse(found)
    assert exact.abs().max() > 0.1 and len(exact.unique()) > 10
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(pairs.double(), exact.diagonal(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_agreement_with_sentence_transformers(name: str) -> None:
    a, b, c = rows(6).to_sparse_coo(), rows(9, seed=1).to_sparse_coo(), rows(6, seed=2).to_sparse_coo()
    theirs = getattr(st_util, THEIRS[name])(a, b)
    theirs = theirs.to_dense() if theirs.is_sparse else theirs
    assert float(theirs.abs().sum()) > 1
    torch.testing.assert_close(SIMILARITIES[name].matrix(a, b), theirs.float(), rtol=1e-5, atol=1e-5)
    pairs = getattr(st_util, f"pairwise_{THEIRS[name]}")(a, c)
    pairs = pairs.to_dense() if pairs.is_sparse else pairs
    torch.testing.assert_close(SIMILARITIES[name].paired(a, c), pairs.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_score_does_not_depend_on_the_other_rows(name: str) -> None:
    a, b = S.to_csr(rows(30)), S.to_csr(rows(50, seed=1))
    whole = S.MATRIX[name](a, b)
    parts = np.vstack([np.hstack([S.MATRIX[name](a[i : i + 7], b[j : j + 11]) for j in range(0, 50, 11)]) for i in range(0, 30, 7)])
    np.testing.assert_array_equal(whole, parts)


@pytest.mark.parametrize("name", NAMES)
def test_no_dense_copy_of_the_rows(name: str) -> None:
    """2,000 rows of 100,000 dimensions would be 1.6 GB; the scores are 0.3 MB."""
    generator = np.random.default_rng(0)
    made = sp.random_array((2000, 100_000), density=50 / 100_000, rng=generator, format="csr")
    a, b = S.to_csr(made[:20]), S.to_csr(made)
    tracemalloc.start()
    found, pairs = S.MATRIX[name](a, b), S.PAIRED[name](b, b)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (20, 2000) and pairs.shape == (2000,) and np.abs(found).max() > 0
    assert peak < 40e6, peak


def test_conversion_keeps_values_and_leaves_the_input_alone() -> None:
    dense = rows(5)
    doubled = torch.sparse_coo_tensor(torch.tensor([[0, 0, 1], [3, 3, 2]]), torch.tensor([1.0, 2.0, 0.0]), (2, 4))
    csr = S.to_csr(doubled)
    assert csr.toarray().tolist() == [[0, 0, 0, 3], [0, 0, 0, 0]] and csr.nnz == 1, "repeats add up, stored zeros go"
    assert not doubled.is_coalesced() and doubled._values().tolist() == [1.0, 2.0, 0.0]
    given = sp.csr_array(dense.numpy())
    given.data[0] = 0
    assert S.to_csr(given).nnz == given.nnz - 1 and given.data[0] == 0
    for x in (dense, dense.to_sparse_coo(), dense.numpy(), dense.bfloat16().to_sparse_coo()):
        np.testing.assert_allclose(S.to_csr(x).toarray(), dense.numpy(), rtol=1e-2)
    assert S.to_csr(dense[0]).shape == S.to_csr(dense[0].numpy()).shape == (1, 40)


def test_sparse_gradients_are_refused_instead_of_lost() -> None:
    a = rows(3).to_sparse_coo().requires_grad_()
    with pytest.raises(TrainingError, match="have no gradient; make them dense"):
        SIMILARITIES["dot"].matrix(a, a)
    with torch.no_grad():
        assert SIMILARITIES["dot"].matrix(a, a).shape == (3, 3)


@pytest.mark.parametrize("dims", [1, 3, 8, 100])
def test_the_largest_entries_are_kept(dims: int) -> None:
    dense = rows(30, negative=True, share=0.4)
    kept = S.keep_largest(S.to_csr(dense), dims).toarray()
    theirs = st_util.select_max_active_dims(dense, dims).numpy()
    np.testing.assert_allclose(kept, theirs, rtol=1e-6)
    assert (kept != 0).sum(axis=1).max() == min(dims, int((dense != 0).sum(dim=1).max()))


def test_of_equal_entries_the_lower_dimensions_are_kept() -> None:
    x = S.to_csr(np.array([[0, 2.0, 1, -2, 2, 1], [1, 0, 0, 0, 0, 1]]))
    assert S.keep_largest(x, 2).toarray().tolist() == [[0, 2, 0, -2, 0, 0], [1, 0, 0, 0, 0, 1]]
    assert S.keep_largest(x, 9) is x
