"""NanoBEIR for rerankers: what BM25 found in each of its sets, put in order by a cross-encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stpipe.config.errors import DataError
from stpipe.config.fields import option
from stpipe.config.metrics import metric_facts
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.bm25 import BM25, Tokens
from stpipe.evaluation.candidates import ORDER_METRICS
from stpipe.evaluation.collection import keep_queries
from stpipe.evaluation.cross_encoder_reranking import BASE, BASE_METRICS, Orders, PairOrderEvaluator
from stpipe.evaluation.nano_files import NANO_SETS, read_bm25
from stpipe.evaluation.nano_sets import NanoSetsEvaluator, means
from stpipe.evaluation.ranking import NO_DOC, Collection
from stpipe.evaluation.retrieval import with_prefix
from stpipe.evaluation.scoring import ScoringModel

#: Finding arguments against a claim is another task than finding answers, so the documentation leaves these two out.
DEFAULT_SETS = tuple(name for name in NANO_SETS if name not in ("arguana", "touche2020"))
SET_METRICS = (*ORDER_METRICS, *BASE_METRICS)


@EVALUATORS.register("cross_encoder_nano_beir", aliases=("CrossEncoderNanoBEIREvaluator",))
@dataclass(frozen=True, kw_only=True)
class CrossEncoderNanoBEIREvaluator(NanoSetsEvaluator, PairOrderEvaluator):
    """Reranks the first `rerank_k` documents that BM25 found in each set; the primary metric is the mean nDCG@10 over the sets.

    BM25's order is that of the collection itself (its subset `bm25`), the same for everybody; where a directory has no such files
    it is that of our BM25. Metrics have the names of the documentation: `NanoBEIR_R100_mean_ndcg@10` for the mean,
    `NanoMSMARCO_R100_ndcg@10` for one set, `..._base_ndcg@10` before reranking. Reads no rows of the run.
    """

    kinds: ClassVar[tuple[str, ...]] = PairOrderEvaluator.kinds
    metrics = metric_facts(
        *with_prefix(SET_METRICS, "NanoBEIR_R{depth}_mean_", {"depth": "rerank_k"}),
        *with_prefix(SET_METRICS, "Nano{set}_R{depth}_", {"set": "datasets", "depth": "rerank_k"}),
        labels={"datasets": NANO_SETS},
    )

    datasets: tuple[str, ...] | None = option(DEFAULT_SETS, help=f"Sets to evaluate, of {', '.join(NANO_SETS)}; None is all.")
    rerank_k: int = option(100, ge=1, help="Documents at the top of BM25's order that are reranked.")
    bm25: Tokens = option(
        "identifiers", help="Tokens of our BM25 (words, or identifiers), which is used where a directory has no `bm25` files."
    )

    def __call__(self, model: ScoringModel, rows: Rows, *, batch_size: int) -> Evaluation:
        return self.evaluate(model, {}, batch_size=batch_size)

    def evaluate(self, model: ScoringModel, sources: Mapping[str, Rows], *, batch_size: int) -> Evaluation:
        return self._over_sets(lambda collection, orders: self.reranked(model, collection, orders, batch_size=batch_size))

    def baselines(self, sources: Mapping[str, Rows], *, similarity: str) -> Mapping[str, Evaluation]:
        return {BASE: self._over_sets(self.base)}

    def _over_sets(self, evaluate: Callable[[Collection, Orders], Evaluation]) -> Evaluation:
        """Each set in turn, one held at a time."""
        parts = {
            f"Nano{NANO_SETS[name]}_R{self.rerank_k}": evaluate(*self._orders(name, collection))
            for name, collection in self.collections(self.grading())
        }
        mean = {f"NanoBEIR_R{self.rerank_k}_mean_{name}": value for name, value in means(parts).items()}
        named = {f"{part}_{name}": value for part, found in parts.items() for name, value in found.metrics.items()}
        return Evaluation(
            metrics=mean | named,
            primary=self.primary(similarity=""),
            evaluator=self._name(),
            num_queries=sum(part.num_queries or 0 for part in parts.values()),
            parts=parts,
        )

    def _orders(self, name: str, collection: Collection) -> tuple[Collection, Orders]:
        """The queries for which there is an order of BM25, and the orders. Documents that the corpus lacks are left out."""
        found = read_bm25(self.dataset_id, name)
        if found is None:
            ranking = BM25(self.bm25).search(collection, depth=self.rerank_k)
            return collection, [docs[docs != NO_DOC] for docs in ranking.docs]
        keep = [i for i, query in enumerate(collection.query_ids) if query in found]
        if not keep:
            raise DataError(
                f"{self._name()}: `bm25` of set '{name}' in {self.dataset_id} ranks documents for none of the judged queries; check the ids"
            )
        number = {doc: i for i, doc in enumerate(collection.doc_ids)}
        collection = keep_queries(collection, keep)
        listed = ([number[doc] for doc in dict.fromkeys(found[query]) if doc in number] for query in collection.query_ids)
        return collection, [np.array(docs, dtype=np.int64) for docs in listed]
