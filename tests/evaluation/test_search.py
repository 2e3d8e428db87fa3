"""Exact search in chunks: the same ranks as brute force, whatever the chunks, in memory that the chunks bound."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stpipe.config.errors import TrainingError
from stpipe.evaluation.collection import collection_of
from stpipe.evaluation.ranking import NO_DOC, Collection, Ranking, rank_row
from stpipe.evaluation.search import EmbeddingSearch
from stpipe.ops.similarity import SIMILARITIES
from stpipe.search.top_k import TopK, decode_keys, sort_keys
from tests.evaluation.toy import Diverged, ToyModel, pairs


def collection(num_queries: int = 23, num_docs: int = 157) -> Collection:
    docs = [f"w{i % 40} doc {i}" for i in range(num_docs)]
    ids = [f"d{i}" for i in range(num_docs)]
    queries = [f"w{i} ask" for i in range(num_queries)]
    return Collection([f"q{i}" for i in range(num_queries)], queries, ids, docs, [{i: 1.0} for i in range(num_queries)])


def brute_force(model: ToyModel, name: str, given: Collection, depth: int) -> Ranking:
    """One matrix of all scores, one sort a query."""
    q, d = model.encode_query(given.queries, convert_to_tensor=True), model.encode_document(list(given.docs), convert_to_tensor=True)
    scores = SIMILARITIES[name].matrix(q.double(), d.double()).float().numpy()
    ranked = [rank_row(np.arange(len(given.docs)), row) for row in scores]
    return Ranking.pad([docs[:depth] for docs, _ in ranked], [values[:depth] for _, values in ranked])


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
@pytest.mark.parametrize("chunks", [(1, 1), (7, 5), (64, 23), (1000, 1000)])
def test_chunked_search_is_brute_force(name: str, chunks: tuple[int, int]) -> None:
    given, model = collection(), ToyModel(similarity_fn_name="dot")
    found = EmbeddingSearch(model, (name,), 8, corpus_chunk=chunks[0], query_chunk=chunks[1]).search(given, depth=20)
    expected = brute_force(model, name, given, 20)
    np.testing.assert_array_equal(found.docs, expected.docs)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_equal_scores_are_ranked_by_document_number_across_chunks() -> None:
    class Same(ToyModel):
        def _encode(self, kind: str, texts: Any, prompt: Any, default: str, options: Any) -> Tensor:
            third = 1 / 3  # no exact sum in floats: products of other shapes round it otherwise
            return torch.full((len(texts), 16), third)

    given = collection(num_queries=5, num_docs=61)
    for chunk in (1, 3, 16, 61):
        found = EmbeddingSearch(Same(), ("cosine",), 8, corpus_chunk=chunk, query_chunk=2).search(given, depth=9)
        assert found.docs.tolist() == [list(range(9))] * 5


def test_fewer_documents_than_ranks() -> None:
    found = EmbeddingSearch(ToyModel(), ("cosine",), 8).search(collection(num_docs=3), depth=100)
    assert found.docs.shape == (23, 3) and (found.docs >= 0).all()


def test_keys_sort_like_score_then_number_and_decode_to_both() -> None:
    special = [-np.inf, -3.5, -1e-30, -0.0, 0.0, 1e-45, 0.5, 1 / 3, 3e38]
    scores = torch.tensor([special * 2], dtype=torch.float64)
    keys = sort_keys(scores, 4_000_000_000)
    ranking = Ranking(*decode_keys(keys.sort(dim=1, descending=True).values))
    expected = rank_row(np.arange(len(special) * 2) + 4_000_000_000, scores.float().numpy()[0])
    np.testing.assert_array_equal(ranking.docs[0], expected[0])
    np.testing.assert_array_equal(ranking.scores[0], expected[1])


def test_empty_ranks_decode_to_no_document() -> None:
    top = TopK(2, 3, torch.device("cpu"))
    top.update(slice(0, 2), sort_keys(torch.tensor([[0.25], [-2.0]]), 7))
    ranking = Ranking(*top.found())
    assert ranking.docs.tolist() == [[7, NO_DOC, NO_DOC]] * 2
    assert ranking.scores[:, 0].tolist() == [0.25, -2.0] and np.isneginf(ranking.scores[:, 1:]).all()


@pytest.mark.parametrize("chunk", [1, 4, 10_000])
def test_rerank_orders_each_querys_own_candidates(chunk: int) -> None:
    given, model = collection(), ToyModel()
    rng = np.random.default_rng(0)
    candidates = [np.sort(rng.choice(157, size=int(size), replace=False)) for size in rng.integers(1, 12, size=23)]
    found = EmbeddingSearch(model, ("cosine",), 8, corpus_chunk=chunk).rerank(given, candidates)
    full = brute_force(model, "cosine", given, 157)
    for row, order, own in zip(found.docs, full.docs, candidates, strict=True):
        assert row[row != NO_DOC].tolist() == [d for d in order if d in set(own.tolist())]
    encoded = sum(count for kind, _, count in model.calls[:-1] if kind == "document")
    assert encoded == len(np.unique(np.concatenate(candidates))), "each distinct candidate is encoded once"


def test_memory_is_bounded_by_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No score tile larger than query chunk x corpus chunk, and embeddings of only one corpus chunk alive at a time."""
    tiles: list[tuple[int, int]] = []
    alive: list[weakref.ref[Tensor]] = []
    left_over: list[int] = []

    class Watched(ToyModel):
        def similarity(self, a: Tensor, b: Tensor, /) -> Tensor:
            tiles.append((len(a), len(b)))
            alive.append(weakref.ref(b))
            return super().similarity(a, b)

        def encode_document(self, inputs: Any, **options: Any) -> Tensor:
            left_over.append(sum(tensor() is not None for tensor in alive))
            return super().encode_document(inputs, **options)

    given = collection(num_queries=50, num_docs=1000)
    EmbeddingSearch(Watched(), ("cosine",), 8, corpus_chunk=64, query_chunk=16).search(given, depth=10)
    assert len(tiles) == 4 * 16 and max(a * b for a, b in tiles) == 16 * 64
    assert left_over == [0] * 16, "a chunk is gone before the next is encoded"


def test_several_similarities_share_the_embeddings() -> None:
    model = ToyModel()
    found = EmbeddingSearch(model, ("cosine", "euclidean"), 8, corpus_chunk=40).search_all(collection(), depth=5).rankings
    assert sorted(found) == ["cosine", "euclidean"]
    assert [kind for kind, *_ in model.calls] == ["query", "document", "document", "document", "document"]
    assert not np.array_equal(found["cosine"].docs, found["euclidean"].docs)


def test_prompts_and_truncation_reach_the_model() -> None:
    rows = pairs(prompts={"anchor": "ask: ", "positive": ""})
    model = ToyModel(query_prompt="unused: ")
    given, _ = collection_of(rows)
    EmbeddingSearch(model, ("cosine",), 8, truncate_dim=4).search(given, depth=5)
    assert [(kind, prompt) for kind, prompt, _ in model.calls] == [("query", "ask: "), ("document", "")]


def test_nan_embeddings_are_an_error() -> None:
    with pytest.raises(TrainingError, match="NaN or infinite values for 1 of 23 texts"):
        EmbeddingSearch(Diverged(), ("cosine",), 8).search(collection(), depth=5)
