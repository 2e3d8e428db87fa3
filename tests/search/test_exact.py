"""Exact search: the order of a loop in float64, whatever the chunks, and with documents that are all but equal."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stpipe.config.errors import ConfigError, DataError
from stpipe.search import nearest
from stpipe.search.exact import ExactSearch
from stpipe.search.top_k import NO_DOC

SCORES: dict[str, Callable[[list[float], list[float]], float]] = {
    "dot": lambda a, b: sum(x * y for x, y in zip(a, b, strict=True)),
    "cosine": lambda a, b: SCORES["dot"](a, b) / (math.sqrt(SCORES["dot"](a, a)) * math.sqrt(SCORES["dot"](b, b))),
    "euclidean": lambda a, b: -math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True))),
    "manhattan": lambda a, b: -sum(abs(x - y) for x, y in zip(a, b, strict=True)),
}


def vectors(rows: int, width: int = 12, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def by_loop(similarity: str, queries: np.ndarray, corpus: np.ndarray, depth: int) -> tuple[list[list[int]], list[list[float]]]:
    """Best first, equal scores (as float32) by number."""
    docs, scores = [], []
    for query in queries.astype(np.float64).tolist():
        found = [(float(np.float32(SCORES[similarity](query, doc))), i) for i, doc in enumerate(corpus.astype(np.float64).tolist())]
        best = sorted(found, key=lambda pair: (-pair[0], pair[1]))[:depth]
        docs.append([i for _, i in best])
        scores.append([score for score, _ in best])
    return docs, scores


@pytest.mark.parametrize("similarity", list(SCORES))
@pytest.mark.parametrize("small", [0, 10_000], ids=["float32 first", "float64 alone"])
def test_equals_a_loop(similarity: str, small: int) -> None:
    queries, corpus = vectors(9, seed=1), vectors(150, seed=2)
    corpus[40:60] = corpus[3]  # ties: decided by number
    queries[4] = corpus[3]
    docs, scores = by_loop(similarity, queries, corpus, 25)
    found = ExactSearch(corpus, similarity=similarity, query_chunk=4, corpus_chunk=33, small=small).search(queries, 25)
    assert found.docs.tolist() == docs
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6, atol=1e-7)
    assert found.docs[4, :21].tolist() == [3, *range(40, 60)]


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_chunks_change_nothing(similarity: str) -> None:
    queries, corpus = vectors(40, 64, seed=3), vectors(700, 64, seed=4)
    corpus[200:300] = corpus[7]
    whole = ExactSearch(corpus, similarity=similarity).search(queries, 30)
    for query_chunk, corpus_chunk in ((1, 700), (7, 13), (40, 100)):
        found = ExactSearch(corpus, similarity=similarity, query_chunk=query_chunk, corpus_chunk=corpus_chunk, small=0).search(queries, 30)
        assert np.array_equal(found.docs, whole.docs) and np.array_equal(found.scores, whole.scores)


def test_near_documents_that_float32_confuses_are_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """400 documents differ by less than float32 products can tell: the bound says so, and float64 decides."""
    query = vectors(1, 256, seed=5)
    corpus = np.repeat(query, 400, axis=0)
    corpus[:, 0] += np.random.default_rng(6).permutation(400).astype(np.float32) * np.float32(2e-6)
    searched: list[int] = []
    original = ExactSearch.scan
    monkeypatch.setattr(ExactSearch, "scan", lambda self, rows, depth: (searched.append(len(rows)), original(self, rows, depth))[1])
    docs, _ = by_loop("dot", query, corpus, 20)
    found = ExactSearch(corpus, similarity="dot", small=0, corpus_chunk=64).search(query, 20)
    assert found.docs.tolist() == docs
    assert searched == [1]


def test_the_bound_holds_for_what_is_left_out() -> None:
    """Errors of float32 products are below the bound, and not by so much that it would never be reached."""
    queries, corpus = vectors(50, 384, seed=7), vectors(2000, 384, seed=8)
    single = queries @ corpus.T
    exact = queries.astype(np.float64) @ corpus.astype(np.float64).T
    error = np.abs(single - exact).max()
    bound = nearest.product_bound(384, nearest.longest(queries), nearest.longest(corpus))
    assert 0 < error < bound < 1000 * error


def test_memory_maps_are_read_in_parts(tmp_path: Path) -> None:
    corpus = vectors(300, 16, seed=9)
    np.save(tmp_path / "corpus.npy", corpus)
    mapped = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    queries = vectors(5, 16, seed=10)
    found = ExactSearch(mapped, corpus_chunk=50, small=0).search(queries, 5)
    assert np.array_equal(found.docs, ExactSearch(corpus).search(queries, 5).docs)


def test_more_is_wanted_than_there_is() -> None:
    found = ExactSearch(vectors(4), small=0).search(vectors(3, seed=1), 10)
    assert found.docs.shape == (3, 4) and sorted(found.docs[0].tolist()) == [0, 1, 2, 3]
    assert ExactSearch(vectors(4)).search(vectors(0), 2).docs.shape == (0, 2)


def test_a_row_of_zeros_is_like_nothing() -> None:
    corpus = vectors(20)
    corpus[5] = 0
    found = ExactSearch(corpus, small=0).search(vectors(2, seed=1), 20)
    assert found.scores[0][found.docs[0].tolist().index(5)] == 0


@pytest.mark.parametrize("small", [0, 100])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_vectors_are_refused(small: int, value: float) -> None:
    corpus = vectors(20)
    corpus[13, 2] = value
    with pytest.raises(DataError, match="document 13 has an embedding with NaN or infinite values"):
        ExactSearch(corpus, corpus_chunk=8, small=small).search(vectors(2), 3)
    queries = vectors(9)
    queries[7] = value
    with pytest.raises(DataError, match="query 7"):
        ExactSearch(vectors(20), query_chunk=4, small=small).search(queries, 3)


def test_an_unknown_similarity_is_refused() -> None:
    with pytest.raises(ConfigError, match="cosine, dot, euclidean, manhattan; the model's similarity is 'hamming'"):
        ExactSearch(vectors(3), similarity="hamming")


def test_absent_documents_stay_behind() -> None:
    queries, corpus = vectors(1), vectors(6)
    docs = np.array([[4, NO_DOC, 2, NO_DOC]])
    found = nearest.rescored(queries, corpus, docs, unit=True, depth=4)
    assert sorted(found.docs[0, :2].tolist()) == [2, 4] and found.docs[0, 2:].tolist() == [NO_DOC, NO_DOC]
    assert np.isneginf(found.scores[0, 2:]).all()
