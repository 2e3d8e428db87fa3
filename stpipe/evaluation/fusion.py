"""Hybrid search: the model's ranking and that of another one as a single ranking.

Shape legend: Q queries, K ranks of each query.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from stpipe.config.fields import option
from stpipe.config.metrics import metric, metric_facts
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation.base import EmbeddingEvaluator, Evaluation
from stpipe.evaluation.bm25 import BM25
from stpipe.evaluation.details import found_scores
from stpipe.evaluation.encoding import EmbeddingModel, EncodeOptions
from stpipe.evaluation.examples import DocTexts
from stpipe.evaluation.judging import order_metrics, per_query, qrels_of, run_of
from stpipe.evaluation.metrics import Floats
from stpipe.evaluation.own_collection import CollectionEvaluator
from stpipe.evaluation.ranking import NO_DOC, Ranker, Ranking, rank_row
from stpipe.evaluation.search import EmbeddingSearch
from stpipe.models.load import load_model
from stpipe.models.paths import resolve_path
from stpipe.ops.similarity import SimilarityName

BM25_NAME = "bm25"
SYSTEMS = ("", "model_", "other_")
FUSION_METRICS = tuple(
    item
    for system in SYSTEMS
    for item in (metric(f"{system}ndcg@{{k}}", ks="at_k"), metric(f"{system}mrr@{{k}}", ks="at_k"), metric(f"{system}map"))
)


@dataclass(frozen=True, kw_only=True)
class FusionEvaluator(CollectionEvaluator, EmbeddingEvaluator):
    """What both fusions have in common. Each system ranks the whole collection; the fusion sees its best `depth` documents.

    Metrics of the fusion have the plain names (`ndcg@10`), those of the two systems alone `model_` and `other_` in front.
    """

    kinds: ClassVar[tuple[str, ...]] = EmbeddingEvaluator.kinds

    other: str = option(help="The other system: a model's directory, package://MODULE/SUBDIR or Hub id (dense or sparse), or bm25.")
    at_k: int = option(10, ge=1, help="Cut-off of nDCG and MRR. MAP takes all documents of the ranking.")
    depth: int = option(100, ge=1, help="Documents of each system that are fused.")
    similarity: SimilarityName | None = option(None, help="Similarity function of the evaluated model; None is its own.")
    corpus_chunk_size: int = option(10_000, ge=1, help="Documents encoded and held at a time. Bounds memory, never changes a rank.")
    query_chunk_size: int = option(256, ge=1, help="Queries scored at a time. Bounds memory, never changes a rank.")

    @abstractmethod
    def weights(self, model: Ranking, other: Ranking) -> tuple[Floats, Floats]:
        """(Q, K) of each ranking: what every document in it adds to its fused score."""

    def evaluate(self, model: EmbeddingModel, sources: Mapping[str, Rows], *, batch_size: int) -> Evaluation:
        other = self.other_system(device=getattr(model, "device", None), batch_size=batch_size)
        own = self._searcher(model, self.similarity or model.similarity_fn_name, self.options(batch_size))
        return self.evaluate_rankers(own, other, sources)

    def other_system(self, *, device: Any, batch_size: int) -> Ranker:
        """The other system, read now and forgotten after the evaluation."""
        if self.other == BM25_NAME:
            return BM25()
        # Of whatever kind the directory is: the searcher refuses one that gives no embeddings.
        loaded = cast(EmbeddingModel, load_model(resolve_path(self.other), device=device))
        return self._searcher(loaded, loaded.similarity_fn_name, EncodeOptions(batch_size))

    def evaluate_rankers(self, model: Ranker, other: Ranker, sources: Mapping[str, Rows]) -> Evaluation:
        """The fusion of any two rankers, and each alone."""
        collection = self.collection(sources)
        depth = min(self.depth, len(collection.docs))
        own, theirs = (ranker.search(collection, depth=depth) for ranker in (model, other))
        fused = fuse(own, theirs, self.weights(own, theirs))
        judged = {system: self.grading().judge(collection, r) for system, r in zip(SYSTEMS, (fused, own, theirs), strict=True)}
        values = {system: order_metrics(result, self.at_k) for system, result in judged.items()}
        primary = f"ndcg@{self.at_k}"
        return Evaluation(
            metrics={f"{system}{name}": float(value.mean()) for system, found in values.items() for name, value in found.items()},
            primary=primary,
            evaluator=self._name(),
            num_queries=len(collection.queries),
            per_query=per_query(collection, judged[""], values[""]),
            query_metric=primary,
            run=run_of(collection, fused),
            qrels=qrels_of(collection),
            details={"scores": found_scores(fused, judged[""].hit, of="score")},
            texts=DocTexts(collection),
        )

    def _searcher(self, model: EmbeddingModel, similarity: str, options: EncodeOptions) -> Ranker:
        return EmbeddingSearch(
            model,
            (similarity,),
            options.batch_size,
            options.truncate_dim,
            options.max_active_dims,
            corpus_chunk=self.corpus_chunk_size,
            query_chunk=self.query_chunk_size,
        )


@EVALUATORS.register("reciprocal_rank_fusion", aliases=("ReciprocalRankFusionEvaluator",))
@dataclass(frozen=True, kw_only=True)
class ReciprocalRankFusionEvaluator(FusionEvaluator):
    """Documents by the sum of 1 / (rrf_k + rank) over the model's ranking and that of another system.

    It needs no scores, so the two may be anything: dense and sparse, or a model and BM25. Source: Cormack, Clarke and
    Buettcher 2009, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods", section 2.
    """

    metrics = metric_facts(*FUSION_METRICS)

    rrf_k: int = option(60, ge=0, help="Constant of the formula: the greater, the less the first ranks stand out.")

    def weights(self, model: Ranking, other: Ranking) -> tuple[Floats, Floats]:
        return reciprocal_ranks(model, self.rrf_k), reciprocal_ranks(other, self.rrf_k)


@EVALUATORS.register("hybrid", aliases=("HybridEvaluator",))
@dataclass(frozen=True, kw_only=True)
class HybridEvaluator(FusionEvaluator):
    """Documents by weight x model's score + (1 - weight) x other's score, each scaled to 0..1 within its own list.

    Scores of the best `depth` documents of a query are scaled by their least and greatest value; a document that one of
    the two did not find has 0 there.
    """

    metrics = metric_facts(*FUSION_METRICS)

    weight: float = option(0.5, ge=0, le=1, help="Weight of the evaluated model; the other has 1 - weight.")

    def weights(self, model: Ranking, other: Ranking) -> tuple[Floats, Floats]:
        return self.weight * scaled_scores(model), (1.0 - self.weight) * scaled_scores(other)


def reciprocal_ranks(ranking: Ranking, rrf_k: int) -> Floats:
    """(Q, K) 1 / (rrf_k + rank), 0 behind the last document."""
    ranks = np.arange(1, ranking.docs.shape[1] + 1)
    return np.where(ranking.docs != NO_DOC, 1.0 / (rrf_k + ranks), 0.0)


def scaled_scores(ranking: Ranking) -> Floats:
    """(Q, K) scores from 0 (the last document) to 1 (the first); 1 for all when they are equal, 0 behind the last."""
    present = ranking.docs != NO_DOC
    scores = ranking.scores.astype(np.float64)
    low = np.where(present, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    high = np.where(present, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = np.where(high > low, (scores - low) / (high - low), 1.0)
    return np.where(present, scaled, 0.0)


def fuse(first: Ranking, second: Ranking, weights: tuple[Floats, Floats]) -> Ranking:
    """Up to (Q, 2 K) documents of both rankings by the sum of their weights (Q, K), equal sums by document number."""
    docs = np.concatenate([first.docs, second.docs], axis=1)
    rows = []
    for row, weight in zip(docs, np.concatenate(weights, axis=1), strict=True):
        used = row != NO_DOC
        numbers, place = np.unique(row[used], return_inverse=True)
        rows.append(rank_row(numbers, np.bincount(place, weights=weight[used], minlength=len(numbers)).astype(np.float32)))
    return Ranking.pad([numbers for numbers, _ in rows], [scores for _, scores in rows])
