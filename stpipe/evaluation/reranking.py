"""Reordering of given candidates: each query against the documents that its own row lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stpipe.config.errors import DataError
from stpipe.config.fields import option
from stpipe.config.metrics import metric, metric_facts
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation import metrics as formulas
from stpipe.evaluation.base import EmbeddingEvaluator, Evaluation
from stpipe.evaluation.bm25 import BM25, Tokens
from stpipe.evaluation.collection import collection_of, keep_queries
from stpipe.evaluation.encoding import EmbeddingModel
from stpipe.evaluation.judging import Grading, per_query, qrels_of, run_of
from stpipe.evaluation.ranking import Collection, Ranker, Ranking
from stpipe.evaluation.search import EmbeddingSearch
from stpipe.evaluation.sparsity import width_metrics, width_values
from stpipe.ops.similarity import SimilarityName


@EVALUATORS.register("reranking", aliases=("RerankingEvaluator", "SparseRerankingEvaluator"))
@dataclass(frozen=True, kw_only=True)
class RerankingEvaluator(EmbeddingEvaluator):
    """MAP, MRR and nDCG of the candidates of each query: its positives and negatives, or its list of documents.

    Rows with the same query are one query. Queries whose candidates are all relevant, or none of them, say nothing
    about order and are left out. Names and definitions are those of the documentation (`ndcg@10`, `map`, `mrr@10`),
    except that equal scores are ranked by document id instead of averaged.
    """

    formats: ClassVar[tuple[str, ...]] = ("triplet", "n-tuple", "triplet-score", "n-tuple-scores", "query-document", "query-documents")
    metrics = metric_facts(
        metric("ndcg@{k}", ks="at_k"),
        metric("mrr@{k}", ks="at_k"),
        metric("map"),
        *width_metrics("query_"),
        *width_metrics("corpus_"),
    )

    at_k: int = option(10, ge=1, help="Cut-off of nDCG and MRR. MAP takes all candidates.")
    similarity: SimilarityName | None = option(None, help="Similarity function to rank by; None is the model's own.")
    relevance_threshold: float = option(0.0, ge=0, help="Documents graded above this are relevant (labels of query-document formats).")
    graded: bool = option(True, help="nDCG uses the grades as gains; false counts every relevant document as 1.")
    bm25: Tokens | None = option(
        "identifiers",
        help="Tokens of the BM25 baseline: words, or identifiers, which adds the parts of snake_case and camelCase words "
        "(on code a far stronger baseline, on prose the same); None is no baseline.",
    )
    corpus_chunk_size: int = option(10_000, ge=1, help="Distinct candidates encoded and held at a time.")

    def __call__(self, model: EmbeddingModel, rows: Rows, *, batch_size: int) -> Evaluation:
        search = EmbeddingSearch(
            model,
            (self.similarity or model.similarity_fn_name,),
            batch_size=batch_size,
            truncate_dim=self.truncate_dim,
            max_active_dims=self.max_active_dims,
            corpus_chunk=self.corpus_chunk_size,
        )
        self.check(rows)
        collection, candidates = self._queries(rows)
        found = search.rerank_all(collection, candidates)
        widths = {**width_values(found.queries, "query_"), **width_values(found.docs, "corpus_")}
        return self._score(collection, next(iter(found.rankings.values())), widths)

    def baseline(self, sources: Mapping[str, Rows], *, similarity: str) -> Evaluation | None:
        return None if self.bm25 is None else self.rank_with(BM25(self.bm25), self.pick(sources))

    def rank_with(self, ranker: Ranker, rows: Rows) -> Evaluation:
        """Evaluate any ranker."""
        self.check(rows)
        collection, candidates = self._queries(rows)
        return self._score(collection, ranker.rerank(collection, candidates), {})

    def _queries(self, rows: Rows) -> tuple[Collection, list[NDArray[np.int64]]]:
        """The queries whose candidates are neither all relevant nor all irrelevant, and their candidates."""
        collection, candidates = collection_of(rows)
        relevant = [sum(g > self.relevance_threshold for g in grades.values()) for grades in collection.grades]
        keep = [i for i, count in enumerate(relevant) if 0 < count < len(candidates[i])]
        if not keep:
            raise DataError(
                f"reranking: no query of data set '{rows.name}' has both a document graded above relevance_threshold = "
                f"{self.relevance_threshold} and one that is not, so every order is as good; check the labels or the threshold"
            )
        return keep_queries(collection, keep), [candidates[i] for i in keep]

    def _score(self, collection: Collection, ranking: Ranking, widths: Mapping[str, float]) -> Evaluation:
        judged = Grading(self.relevance_threshold, self.graded).judge(collection, ranking)
        values = {
            f"ndcg@{self.at_k}": formulas.ndcg_at_k(judged.gain, judged.ideal, self.at_k),
            f"mrr@{self.at_k}": formulas.reciprocal_rank_at_k(judged.hit, self.at_k),
            "map": formulas.average_precision_at_k(judged.hit, judged.num_relevant),
        }
        primary = self.primary(similarity="")
        return Evaluation(
            metrics={name: float(value.mean()) for name, value in values.items()} | dict(widths),
            primary=primary,
            evaluator=self._name(),
            num_queries=len(collection.queries),
            per_query=per_query(collection, judged, values),
            query_metric=primary,
            run=run_of(collection, ranking),
            qrels=qrels_of(collection),
        )
