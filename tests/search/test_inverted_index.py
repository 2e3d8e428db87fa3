"""Search by posting lists is brute force over dense vectors, whatever the chunks."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from scipy import sparse as sp

from stpipe.config.errors import ConfigError, DataError
from stpipe.ops.sparse import Csr
from stpipe.search import InvertedIndex, Postings, multiplications


def texts(count: int, *, width: int = 200, active: int = 12, seed: int = 0, levels: int = 0) -> Csr:
    """(count, width) random rows with frequent and rare dimensions; `levels` weights only, so that scores tie."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, width + 1) ** 0.5
    dims = np.stack([rng.choice(width, size=active, replace=False, p=share / share.sum()) for _ in range(count)])
    weights = rng.integers(1, levels + 1, size=dims.shape) / 4 if levels else rng.random(dims.shape) + 0.01
    return sp.csr_array((weights.astype(np.float32).ravel(), (np.repeat(np.arange(count), active), dims.ravel())), shape=(count, width))


def brute_force(queries: Csr, docs: Csr, top_k: int) -> tuple[list[list[int]], list[list[float]]]:
    """Every query with every document in a loop, those that share no dimension left out."""
    numbers, scores = [], []
    q, d = queries.toarray().astype(np.float64), docs.toarray().astype(np.float64)
    for query in q:
        found = [
            (i, sum(query[j] * doc[j] for j in np.flatnonzero(query)), bool(((query != 0) & (doc != 0)).any())) for i, doc in enumerate(d)
        ]
        ranked = sorted((x for x in found if x[2]), key=lambda x: (-np.float32(x[1]), x[0]))[:top_k]
        numbers.append([i for i, *_ in ranked])
        scores.append([s for _, s, _ in ranked])
    return numbers, scores


@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize(("added", "segment", "query_chunk"), [(150, 100_000, None), (7, 20, 3), (1, 1, 1), (40, 33, 100)])
def test_search_is_brute_force(levels: int, added: int, segment: int, query_chunk: int | None) -> None:
    docs, queries = texts(150, levels=levels), texts(17, active=4, seed=1, levels=levels)
    index = InvertedIndex(segment_size=segment)
    for start in range(0, 150, added):
        index.add(docs[start : start + added])
    found = index.search(queries, 20, query_chunk=query_chunk)
    numbers, scores = brute_force(queries, docs, 20)
    assert len(index) == 150 and found.scores.dtype == np.float64
    for row, values, expected, exact in zip(found.docs, found.scores, numbers, scores, strict=True):
        assert row[row >= 0].tolist() == expected
        np.testing.assert_allclose(values[row >= 0], exact, rtol=1e-14)
        assert np.isneginf(values[row < 0]).all()
    if levels:
        assert any(len(set(values)) < len(values) for values in scores), "there are ties to be broken"


def test_chunks_never_change_a_bit() -> None:
    docs, queries = texts(300), texts(40, active=20, seed=1)
    results = []
    for segment, chunk in ((1000, None), (37, 11)):
        index = InvertedIndex(segment_size=segment)
        index.add(docs)
        results.append(index.search(queries, 50, query_chunk=chunk))
    np.testing.assert_array_equal(results[0].docs, results[1].docs)
    np.testing.assert_array_equal(results[0].scores, results[1].scores)


def test_only_documents_that_share_a_dimension_are_found() -> None:
    index = InvertedIndex()
    index.add(torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [3.0, 0, 0]]))
    found = index.search(torch.tensor([[0.5, 0, 0], [0, 0, 1.0]]).to_sparse_coo(), 10)
    assert found.docs.tolist() == [[2, 0, -1], [-1, -1, -1]]
    assert found.as_lists() == [[{"corpus_id": 2, "score": 1.5}, {"corpus_id": 0, "score": 0.5}], []]


def test_documents_can_be_added_after_a_search() -> None:
    index = InvertedIndex()
    index.add(np.array([[1.0, 0.0]]))
    assert index.search(np.array([1.0, 1.0])).docs.tolist() == [[0]]
    index.add(np.array([[2.0, 1.0], [0.5, 0.0]]))
    assert index.search(np.array([1.0, 1.0])).docs.tolist() == [[1, 0, 2]]


def test_weights_that_need_float64_keep_it() -> None:
    index = InvertedIndex()
    index.add(np.array([[1 / 3]]))
    assert index.search(np.array([1.0])).scores[0, 0] == 1 / 3


def test_posting_list_statistics_and_flops_are_counts() -> None:
    docs, queries = texts(60), texts(9, active=5, seed=1)
    index = InvertedIndex(segment_size=13)
    for start in range(0, 60, 10):
        index.add(docs[start : start + 10])
    postings, dense = index.postings(), docs.toarray() != 0
    assert postings.lengths.tolist() == dense.sum(axis=0).tolist()
    assert postings.mean_length == pytest.approx(np.mean([n for n in dense.sum(axis=0) if n]))
    assert postings.max_length == dense.sum(axis=0).max() > postings.mean_length
    assert postings.active_dims == 12 and postings.sparsity_ratio == pytest.approx(1 - 12 / 200)
    asked = queries.toarray() != 0
    exact = np.mean([[(q & d).sum() for d in dense] for q in asked])
    assert exact > 0.1
    assert multiplications(Postings.of(queries), postings) == pytest.approx(exact, rel=1e-12)
    assert Postings.total([Postings.of(docs[:20]), Postings.of(docs[20:])]).lengths.tolist() == postings.lengths.tolist()


def test_memory_is_bounded_by_the_tile() -> None:
    """20,000 x 400 dense scores would be 64 MB; tiles of 8 queries and 1,000 documents are far below."""
    index = InvertedIndex(segment_size=1000)
    docs, queries = texts(20_000, active=8), texts(400, active=8, seed=1)
    index.add(docs)
    index.search(queries[:1], 1)  # the posting lists are made here
    tracemalloc.start()
    found = index.search(queries, 10, query_chunk=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.docs >= 0).all()
    assert peak < 4e6, peak


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda index: index.search(np.ones((1, 3))), DataError, "vectors have 3 dimensions, those in the index have 2"),
        (lambda index: index.add(np.ones((1, 3))), DataError, "vectors have 3 dimensions"),
        (lambda index: index.add(np.array([[np.nan, 1.0]])), DataError, "NaN or infinite values"),
        (lambda index: index.search(np.ones(2), 0), ConfigError, "top_k is 0"),
        (lambda index: InvertedIndex().search(np.ones(2)), DataError, "the index is empty; add documents first"),
        (lambda index: InvertedIndex().postings(), DataError, "the index is empty"),
        (lambda index: InvertedIndex(segment_size=0), ConfigError, "segment_size is 0"),
    ],
)
def test_what_cannot_work_says_why(call, error, message) -> None:
    index = InvertedIndex()
    index.add(np.eye(2))
    with pytest.raises(error, match=message):
        call(index)
