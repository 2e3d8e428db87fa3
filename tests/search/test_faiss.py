"""FAISS gives what exact search gives, where its index is exact."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from stpipe.config.errors import ConfigError, DataError, MissingExtraError
from stpipe.search.exact import ExactSearch
from stpipe.search.faiss_index import FaissSearch
from tests.search.test_exact import vectors


@pytest.fixture(autouse=True)
def _faiss() -> None:
    pytest.importorskip("faiss")


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_flat_index_agrees_with_exact_search(similarity: str) -> None:
    queries, corpus = vectors(60, 48, seed=1), vectors(900, 48, seed=2)
    corpus[100:250] = corpus[9]  # more equal documents than are asked for
    queries[11] = corpus[9]
    exact = ExactSearch(corpus, similarity=similarity).search(queries, 40)
    found = FaissSearch(corpus, similarity=similarity, query_chunk=7).search(queries, 40)
    assert np.array_equal(found.docs, exact.docs) and np.array_equal(found.scores, exact.scores)
    assert found.docs[11, :3].tolist() == ([9, 100, 101] if similarity == "cosine" else exact.docs[11, :3].tolist())


def test_an_approximate_index_finds_most_and_scores_them_exactly() -> None:
    queries, corpus = vectors(30, 16, seed=3), vectors(2000, 16, seed=4)
    exact = ExactSearch(corpus).search(queries, 10)
    found = FaissSearch(corpus, factory="IVF16,Flat", nprobe=8).search(queries, 10)
    common = [len(set(a) & set(b)) for a, b in zip(found.docs.tolist(), exact.docs.tolist(), strict=True)]
    assert 0.8 < sum(common) / 300 <= 1
    shared = found.docs[0, 0]
    assert found.scores[0, 0] == exact.scores[0][exact.docs[0].tolist().index(shared)]


def test_more_is_wanted_than_there_is() -> None:
    assert FaissSearch(vectors(4)).search(vectors(2, seed=1), 9).docs.shape == (2, 4)


def test_bad_vectors_are_refused() -> None:
    corpus = vectors(20)
    corpus[3] = np.nan
    with pytest.raises(DataError, match="document 3 has an embedding with NaN"):
        FaissSearch(corpus)


def test_what_it_cannot_serve_is_refused() -> None:
    with pytest.raises(ConfigError, match="FAISS searches by cosine, dot; the model's similarity is 'euclidean'"):
        FaissSearch(vectors(5), similarity="euclidean")
    with pytest.raises(ConfigError, match=r"cannot make an index 'Floot' over 12 dimensions.*Flat, IVF1024,Flat"):
        FaissSearch(vectors(5), factory="Floot")


def test_without_the_extra_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'stpipe\[faiss\]'"):
        FaissSearch(vectors(5))
