"""Putting given candidates in order: the metrics of such an order, and the candidates that held-out rows list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stpipe.config.errors import DataError
from stpipe.config.fields import option
from stpipe.config.metrics import metric
from stpipe.core.rows import Rows
from stpipe.evaluation.base import Evaluation, Evaluator
from stpipe.evaluation.bm25 import Tokens
from stpipe.evaluation.collection import collection_of, keep_queries
from stpipe.evaluation.details import found_scores
from stpipe.evaluation.examples import DocTexts
from stpipe.evaluation.judging import Grading, order_metrics, per_query, qrels_of, run_of
from stpipe.evaluation.ranking import Collection, Ranker, Ranking

ORDER_METRICS = (metric("ndcg@{k}", ks="at_k"), metric("mrr@{k}", ks="at_k"), metric("map"))


@dataclass(frozen=True, kw_only=True)
class OrderEvaluator(Evaluator):
    """Evaluators of the order of each query's candidates: nDCG and MRR at k, and MAP."""

    at_k: int = option(10, ge=1, help="Cut-off of nDCG and MRR. MAP takes all candidates.")

    def grading(self) -> Grading:
        """What grades mean; by default every grade above 0 is relevant and is the gain."""
        return Grading()

    def score(
        self, collection: Collection, ranking: Ranking, further: Mapping[str, float] | None = None, *, evaluator: str | None = None
    ) -> Evaluation:
        """Metrics of a ranking of the candidates.

        Args:
            further: other metrics, which are reported too.
            evaluator: registered name that the result carries; None is that of this evaluator.
        """
        judged = self.grading().judge(collection, ranking)
        values = order_metrics(judged, self.at_k)
        primary = f"ndcg@{self.at_k}"
        return Evaluation(
            metrics={name: float(value.mean()) for name, value in values.items()} | dict(further or {}),
            primary=primary,
            evaluator=evaluator or self._name(),
            num_queries=len(collection.queries),
            per_query=per_query(collection, judged, values),
            query_metric=primary,
            run=run_of(collection, ranking),
            qrels=qrels_of(collection),
            details={"scores": found_scores(ranking, judged.hit, of="score")},
            texts=DocTexts(collection),
        )


@dataclass(frozen=True, kw_only=True)
class RowOrderEvaluator(OrderEvaluator):
    """The candidates of a query are those that its rows list: positives and negatives, or a list of documents."""

    formats: ClassVar[tuple[str, ...]] = ("triplet", "n-tuple", "triplet-score", "n-tuple-scores", "query-document", "query-documents")

    relevance_threshold: float = option(0.0, ge=0, help="Documents graded above this are relevant (labels of query-document formats).")
    graded: bool = option(True, help="nDCG uses the grades as gains; false counts every relevant document as 1.")
    bm25: Tokens | None = option(
        "identifiers",
        help="Tokens of the BM25 baseline: words, or identifiers, which adds the parts of snake_case and camelCase words "
        "(on code a far stronger baseline, on prose the same); None is no baseline.",
    )

    def grading(self) -> Grading:
        return Grading(self.relevance_threshold, self.graded)

    def queries(self, rows: Rows) -> tuple[Collection, list[NDArray[np.int64]]]:
        """The queries whose candidates are neither all relevant nor all irrelevant, and their candidates."""
        self.check(rows)
        collection, candidates = collection_of(rows)
        relevant = [sum(g > self.relevance_threshold for g in grades.values()) for grades in collection.grades]
        keep = [i for i, count in enumerate(relevant) if 0 < count < len(candidates[i])]
        if not keep:
            raise DataError(
                f"{self._name()}: no query of data set '{rows.name}' has both a document graded above relevance_threshold = "
                f"{self.relevance_threshold} and one that is not, so every order is as good; check the labels or the threshold"
            )
        return keep_queries(collection, keep), [candidates[i] for i in keep]

    def rank_with(self, ranker: Ranker, rows: Rows) -> Evaluation:
        """Evaluate any ranker."""
        collection, candidates = self.queries(rows)
        return self.score(collection, ranker.rerank(collection, candidates))


def listed_orders(rows: Rows, collection: Collection, *, threshold: float) -> list[NDArray[np.int64]] | None:
    """The documents of each query in the order in which the rows list them; of a query with several lists each where it stands best.

    None when that is no order: rows without lists, and lists that all begin with their relevant documents, which is the order of
    labels (mined lists put the positive first) and not one that a retriever found.
    """
    if rows.format != "query-documents":
        return None
    places: dict[str, dict[str, int]] = {}
    for query, docs in zip(rows.columns["query"], rows.columns["documents"], strict=True):
        listed = places.setdefault(query, {})
        for place, doc in enumerate(docs):
            listed[doc] = min(place, listed.get(doc, place))
    number = {doc: i for i, doc in enumerate(collection.docs)}
    listed_docs = (sorted(places[query], key=places[query].__getitem__) for query in collection.queries)
    orders = [np.array([number[doc] for doc in docs], dtype=np.int64) for docs in listed_docs]
    return None if _by_label(orders, collection.grades, threshold) else orders


def _by_label(orders: Sequence[NDArray[np.int64]], grades: Sequence[Mapping[int, float]], threshold: float) -> bool:
    """True when in every list the relevant documents stand before all others."""
    hits = ([judged[doc] > threshold for doc in order.tolist()] for order, judged in zip(orders, grades, strict=True))
    return all(hit == sorted(hit, reverse=True) for hit in hits)
