"""Sparse models under every evaluator: the numbers of dense copies of the same embeddings, and what sparsity adds."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stpipe.config.errors import ConfigError, TrainingError
from stpipe.config.metrics import configured_metrics
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation import (
    BinaryClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    Evaluator,
    InformationRetrievalEvaluator,
    MSEEvaluator,
    RerankingEvaluator,
    SequentialEvaluator,
    TranslationEvaluator,
    TripletEvaluator,
)
from stpipe.evaluation.collection import collection_of
from stpipe.evaluation.ranking import NO_DOC
from stpipe.evaluation.run import all_metrics
from stpipe.evaluation.search import EmbeddingSearch
from stpipe.evaluation.spaces import space_of
from tests.evaluation.toy import VOCABULARY, SparseToy, classed, lists, pairs, scored, tuples

FOUR = ("cosine", "dot", "euclidean", "manhattan")


@dataclass
class DenseCopy(SparseToy):
    """The same embeddings from a model that calls itself dense."""

    kind = "dense"

    def _encode(self, kind: str, texts: Any, prompt: str | None, options: dict[str, Any]) -> Tensor:
        return self.dense(texts, prompt)


def vectors(num: int = 12) -> Rows:
    texts = [f"w{i} text" for i in range(num)]
    return Rows({"anchor": texts}, (SparseToy().dense(texts) + 0.01).tolist(), "text-vector", {})


CASES: dict[str, tuple[Evaluator, Rows]] = {
    "embedding_similarity": (EmbeddingSimilarityEvaluator(similarities=FOUR), scored()),
    "information_retrieval": (InformationRetrievalEvaluator(similarities=FOUR, active_dims_curve=(2, 8)), pairs()),
    "information_retrieval, lists": (InformationRetrievalEvaluator(ndcg_at_k=(3, 10), active_dims_curve=(4,)), lists()),
    "triplet": (TripletEvaluator(similarities=FOUR), tuples(negatives=1)),
    "triplet, tuples": (TripletEvaluator(), tuples(negatives=3)),
    "binary_classification": (BinaryClassificationEvaluator(similarities=FOUR), classed()),
    "reranking": (RerankingEvaluator(), lists()),
    "mse": (MSEEvaluator(), vectors()),
    "translation": (TranslationEvaluator(), pairs()),
    "sequential": (SequentialEvaluator(evaluators={"ir": InformationRetrievalEvaluator(), "rr": RerankingEvaluator()}), lists()),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_the_numbers_are_those_of_dense_copies(case: str, similarity: str) -> None:
    evaluator, rows = CASES[case]
    plain = dataclasses.replace(evaluator, active_dims_curve=()) if hasattr(evaluator, "active_dims_curve") else evaluator
    found = evaluator(SparseToy(similarity), rows, batch_size=8)
    expected = plain(DenseCopy(similarity), rows, batch_size=8)
    assert set(expected.metrics) < set(found.metrics) and found.primary == expected.primary
    assert abs(expected.primary_value) > 0 and expected.primary_value != 1
    for name, value in expected.metrics.items():
        assert found.metrics[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("case", CASES)
def test_names_and_directions_are_known_before(case: str) -> None:
    """Also from plain values, as `validate` computes them."""
    evaluator, rows = CASES[case]
    found = evaluator(SparseToy(), rows, batch_size=8)
    assert sorted(found.metrics) == sorted(evaluator.metric_names(similarity="dot", kind="sparse"))
    assert all(type(value) is float and np.isfinite(value) for value in found.metrics.values())

    def plain(e: Evaluator) -> dict[str, Any]:
        values = {f.name: getattr(e, f.name) for f in dataclasses.fields(e)}
        inner = {k: {n: plain(x) for n, x in v.items()} for k, v in values.items() if k == "evaluators"}
        return {**values, **inner, "name": EVALUATORS.name_of(type(e))}

    facts = json.loads(json.dumps({name: EVALUATORS.get(name).metrics for name in EVALUATORS}))
    values = json.loads(json.dumps(plain(evaluator)))
    for kind in ("dense", "sparse"):
        names = configured_metrics(values, facts.__getitem__, similarity="dot", kind=kind)
        assert names == evaluator.metric_set(similarity="dot", kind=kind)
        assert ("active_dims" in " ".join(names.names)) == (kind == "sparse")


def test_cost_metrics_are_counts_over_all_pairs() -> None:
    model, rows = SparseToy(), pairs()
    found = InformationRetrievalEvaluator(corpus_chunk_size=7)(model, rows, batch_size=8).metrics
    collection, _ = collection_of(rows)
    queries, docs = (model.dense(list(texts)).numpy() != 0 for texts in (collection.queries, collection.docs))
    products = np.mean([[(q & d).sum() for d in docs] for q in queries])
    lengths = docs.sum(axis=0)
    assert products > 0.1
    assert found["query_active_dims"] == pytest.approx(queries.sum(axis=1).mean())
    assert found["query_sparsity_ratio"] == pytest.approx(1 - queries.mean())
    assert found["corpus_active_dims"] == pytest.approx(docs.sum(axis=1).mean())
    assert found["corpus_sparsity_ratio"] == pytest.approx(1 - docs.mean())
    assert found["avg_flops"] == pytest.approx(products)
    assert found["flops_per_query"] == pytest.approx(products * len(docs))
    assert found["posting_list_mean"] == pytest.approx(lengths[lengths > 0].mean())
    assert found["posting_list_max"] == lengths.max()


def test_directions_of_costs_and_widths() -> None:
    found = InformationRetrievalEvaluator(active_dims_curve=(64,)).metric_set(similarity="dot", kind="sparse")
    assert found.better["query_active_dims"] is None and found.better["corpus_sparsity_ratio"] is None
    assert found.better["avg_flops"] == found.better["posting_list_max"] == found.better["avg_flops_at_64_dims"] == "lower"
    assert found.better["dot_ndcg@10_at_64_dims"] == "higher" and found.better["corpus_active_dims_at_64_dims"] is None
    sets = all_metrics({"dev": InformationRetrievalEvaluator()}, similarity="dot", kind="sparse")
    assert "dev_avg_flops" in sets["dev"].names
    assert "dev_avg_flops" not in all_metrics({"dev": InformationRetrievalEvaluator()}, similarity="dot")["dev"].names


@pytest.mark.parametrize("chunk", [5, 10_000])
def test_the_curve_is_the_search_with_pruned_vectors(chunk: int) -> None:
    """At each width the same as a model that gives no more dimensions; texts are encoded once for all widths."""
    rows, model = lists(), SparseToy()
    evaluator = InformationRetrievalEvaluator(active_dims_curve=(1, 4, 9, 100), corpus_chunk_size=chunk)
    found = evaluator(model, rows, batch_size=8).metrics
    once = SparseToy()
    InformationRetrievalEvaluator(corpus_chunk_size=chunk)(once, rows, batch_size=8)
    assert model.calls == once.calls
    for dims in (1, 4, 9, 100):
        cut = InformationRetrievalEvaluator(max_active_dims=dims)(SparseToy(), rows, batch_size=8).metrics
        assert found[f"dot_ndcg@10_at_{dims}_dims"] == pytest.approx(cut["dot_ndcg@10"], abs=1e-12)
        assert found[f"query_active_dims_at_{dims}_dims"] == pytest.approx(cut["query_active_dims"])
        assert found[f"corpus_active_dims_at_{dims}_dims"] == pytest.approx(cut["corpus_active_dims"])
        assert found[f"avg_flops_at_{dims}_dims"] == pytest.approx(cut["avg_flops"])
    values = [found[f"dot_ndcg@10_at_{dims}_dims"] for dims in (1, 4, 9, 100)]
    assert values[0] < values[-1] == found["dot_ndcg@10"] and len(set(values)) >= 3


@pytest.mark.parametrize("evaluator", [InformationRetrievalEvaluator, RerankingEvaluator, TripletEvaluator])
def test_max_active_dims_reaches_the_model(evaluator: Any) -> None:
    rows = tuples(negatives=1)
    found = evaluator(max_active_dims=3)(SparseToy(), rows, batch_size=8).metrics
    widths = [value for name, value in found.items() if name.endswith("active_dims")]
    assert len(widths) >= 2 and set(widths) == {3.0}


@pytest.mark.parametrize("chunks", [(1, 1), (7, 5), (10_000, 256)])
@pytest.mark.parametrize("name", FOUR)
def test_search_does_not_depend_on_chunks_and_finds_what_shares_a_dimension(name: str, chunks: tuple[int, int]) -> None:
    collection, _ = collection_of(pairs(80))
    model = SparseToy(name)
    found = EmbeddingSearch(model, (name,), 8, corpus_chunk=chunks[0], query_chunk=chunks[1]).search(collection, depth=60)
    dense = EmbeddingSearch(DenseCopy(name), (name,), 8).search(collection, depth=60)
    shared = (model.dense(collection.queries) != 0).double() @ (model.dense(collection.docs) != 0).double().T > 0
    kept = 0
    for query, (row, expected) in enumerate(zip(found.docs, dense.docs, strict=True)):
        wanted = [d for d in expected if name in ("euclidean", "manhattan") or shared[query, d]]
        assert row[row != NO_DOC].tolist() == wanted
        kept += len(wanted)
    assert kept > 1000 and (name not in ("dot", "cosine") or kept < found.docs.size), "some documents share nothing"


def test_memory_is_one_chunk_of_sparse_rows() -> None:
    """4,000 documents of 300,000 dimensions are 9.6 GB when dense in float64; a chunk of 500 sparse ones is well below 10 MB."""
    width = 300_000

    @dataclass
    class Wide(SparseToy):
        def _encode(self, kind: str, texts: Any, prompt: str | None, options: dict[str, Any]) -> Tensor:
            dims = torch.randint(0, width, (len(texts), 20), generator=torch.Generator().manual_seed(len(texts)))
            dims[:, 0] = 7
            places = torch.stack([torch.arange(len(texts)).repeat_interleave(20), dims.ravel()])
            return torch.sparse_coo_tensor(places, torch.ones(dims.numel()), (len(texts), width), check_invariants=True).coalesce()

    given = Rows({"anchor": [f"q {i}" for i in range(50)] * 80, "positive": [f"d {i}" for i in range(4000)]}, None, "pair", {})
    evaluator = InformationRetrievalEvaluator(corpus_chunk_size=500, query_chunk_size=16, active_dims_curve=(4, 8))
    collection = evaluator.collection({"default": given})
    tracemalloc.start()
    found = evaluator.find(Wide(), collection, batch_size=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.docs is not None and found.docs.num_texts == 4000 and found.docs.max_length == 4000
    assert peak < 25e6, f"{peak / 1e6:.0f} MB"


def test_settings_of_the_other_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match="truncate_dim is for dense models; use max_active_dims"):
        TripletEvaluator(truncate_dim=4)(SparseToy(), tuples(), batch_size=8)
    with pytest.raises(ConfigError, match="max_active_dims is for sparse models; use truncate_dim"):
        TripletEvaluator(max_active_dims=4)(DenseCopy(), tuples(), batch_size=8)
    with pytest.raises(ConfigError, match="active_dims_curve is for sparse models, and this one is dense"):
        InformationRetrievalEvaluator(active_dims_curve=(4,))(DenseCopy(), pairs(), batch_size=8)


def test_a_diverged_sparse_model_is_an_error() -> None:
    @dataclass
    class Diverged(SparseToy):
        def dense(self, texts: Any, prompt: str | None = None) -> Tensor:
            values = super().dense(texts, prompt)
            values[0, :2] = torch.nan
            return values

    with pytest.raises(TrainingError, match="NaN or infinite values for 1 of"):
        InformationRetrievalEvaluator()(Diverged(), pairs(), batch_size=8)


def test_a_model_without_any_active_dimension_finds_nothing() -> None:
    @dataclass
    class Dead(SparseToy):
        def dense(self, texts: Any, prompt: str | None = None) -> Tensor:
            return torch.zeros(len(texts), VOCABULARY)

    found = InformationRetrievalEvaluator()(Dead(), pairs(), batch_size=8)
    assert found.primary_value == 0 and found.metrics["avg_flops"] == found.metrics["posting_list_max"] == 0
    assert found.metrics["corpus_sparsity_ratio"] == 1 and all(not docs for docs in (found.run or {"": {"": 0.0}}).values())


def test_a_kind_without_embeddings_is_refused() -> None:
    class Scores(SparseToy):
        kind = "cross_encoder"

    with pytest.raises(ConfigError, match="Scores is a cross_encoder model; evaluators of embeddings take dense, sparse models"):
        space_of(Scores())
