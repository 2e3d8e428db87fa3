"""How much better is a cross-encoder's order of candidates than the order in which they were found?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stpipe.config.fields import option
from stpipe.config.metrics import metric, metric_facts
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.bm25 import BM25
from stpipe.evaluation.candidates import ORDER_METRICS, OrderEvaluator, RowOrderEvaluator, listed_orders
from stpipe.evaluation.ranking import NO_DOC, Collection, Ranking
from stpipe.evaluation.scoring import KIND, PairSearch, ScoringModel, need_one_output

BASE = "base"
NAME = "cross_encoder_reranking"
#: Of the order in which the candidates were found; no model can be chosen by them.
BASE_METRICS = tuple(metric(f"{BASE}_{item['name']}", ks=item["ks"], better=None) for item in ORDER_METRICS)

Orders = Sequence[NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class PairOrderEvaluator(OrderEvaluator):
    """The candidates of each query in the order of a cross-encoder, against a base order of document numbers, best first."""

    kinds: ClassVar[tuple[str, ...]] = (KIND,)
    num_outputs: ClassVar[str | None] = "one"

    rerank_k: int | None = option(None, ge=1, help="Documents at the top of the base order that are reranked; None is all.")
    always_rerank_positives: bool = option(
        True,
        help="Rerank also the relevant documents that are not among them: a better signal. False is what a search would show: "
        "what was not found stays lost.",
    )

    def reranked(self, model: ScoringModel, collection: Collection, orders: Orders, *, batch_size: int) -> Evaluation:
        """The model's order, with the metrics of the base order beside."""
        need_one_output(model, self._name())
        ranking = PairSearch(model, batch_size).rerank(collection, self.candidates(collection, orders))
        base = {f"{BASE}_{name}": value for name, value in self.base(collection, orders).metrics.items()}
        return self.score(collection, ranking, base, evaluator=NAME)

    def base(self, collection: Collection, orders: Orders) -> Evaluation:
        """The base order itself. Relevant documents that it lacks follow at its end when they are reranked and it has any other.

        (That condition is the documentation's; it matters for MAP only.)
        """
        threshold = self.grading().threshold
        docs = []
        for order, more, grades in zip(self._found(orders), self._missing(collection, orders), collection.grades, strict=True):
            hit = any(grades.get(doc, -np.inf) > threshold for doc in order.tolist())
            docs.append(np.concatenate([order, more]) if hit else order)
        ranking = Ranking.pad(docs, [np.arange(len(row), 0, -1, dtype=np.float32) for row in docs])
        return self.score(collection, ranking, evaluator=NAME)

    def candidates(self, collection: Collection, orders: Orders) -> list[NDArray[np.int64]]:
        """The documents of each query that are reranked."""
        return [np.concatenate(pair) for pair in zip(self._found(orders), self._missing(collection, orders), strict=True)]

    def _found(self, orders: Orders) -> list[NDArray[np.int64]]:
        return [order[: self.rerank_k] for order in orders]

    def _missing(self, collection: Collection, orders: Orders) -> list[NDArray[np.int64]]:
        """Relevant documents of each query that the base order lacks; none where they are not reranked."""
        if not self.always_rerank_positives:
            return [np.empty(0, dtype=np.int64)] * len(orders)
        threshold = self.grading().threshold
        relevant = [np.array([doc for doc, grade in grades.items() if grade > threshold], dtype=np.int64) for grades in collection.grades]
        return [np.setdiff1d(docs, order) for docs, order in zip(relevant, self._found(orders), strict=True)]


@EVALUATORS.register(NAME, aliases=("CrossEncoderRerankingEvaluator", "CERerankingEvaluator"))
@dataclass(frozen=True, kw_only=True)
class CrossEncoderRerankingEvaluator(RowOrderEvaluator, PairOrderEvaluator):
    """nDCG, MRR and MAP of the candidates of each query in the order of the scores, and of the base order (`base_ndcg@10`, ...).

    The base order is the one in which `query-documents` rows list the documents, taken to be a retriever's, best first.
    Rows without lists, and lists that all begin with their relevant documents, have none; there it is BM25's. Rows with the
    same query are one query. Queries whose candidates are all relevant, or none of them, say nothing about order and are
    left out. Equal scores are ranked by document id.
    """

    metrics = metric_facts(*ORDER_METRICS, *BASE_METRICS)

    def __call__(self, model: ScoringModel, rows: Rows, *, batch_size: int) -> Evaluation:
        collection, orders, _ = self._orders(rows)
        return self.reranked(model, collection, orders, batch_size=batch_size)

    def baselines(self, sources: Mapping[str, Rows], *, similarity: str) -> Mapping[str, Evaluation]:
        collection, orders, listed = self._orders(self.pick(sources))
        found = {BASE: self.base(collection, orders)} if listed else {}
        if self.bm25 is not None:
            found["bm25"] = self.score(collection, BM25(self.bm25).rerank(collection, self.candidates(collection, orders)))
        return found

    def _orders(self, rows: Rows) -> tuple[Collection, Orders, bool]:
        """The queries, the base order of each, and whether the data gave it."""
        collection, candidates = self.queries(rows)
        listed = listed_orders(rows, collection, threshold=self.relevance_threshold)
        if listed is not None:
            return collection, listed, True
        ranking = BM25(self.bm25 or "identifiers").rerank(collection, candidates)
        return collection, [docs[docs != NO_DOC] for docs in ranking.docs], False
