"""Retrieval over a whole corpus: each query against every document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from stpipe.config.metrics import metric_facts
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation.base import Evaluation
from stpipe.evaluation.bm25 import BM25
from stpipe.evaluation.encoding import EmbeddingModel
from stpipe.evaluation.own_collection import CollectionEvaluator
from stpipe.evaluation.ranking import Ranker
from stpipe.evaluation.retrieval import RETRIEVAL_METRICS, RetrievalEvaluator


@EVALUATORS.register("information_retrieval", aliases=("InformationRetrievalEvaluator", "SparseInformationRetrievalEvaluator"))
@dataclass(frozen=True, kw_only=True)
class InformationRetrievalEvaluator(CollectionEvaluator, RetrievalEvaluator):
    """Accuracy, precision, recall, MRR, nDCG and MAP at k of exact search over all documents.

    Queries are the distinct anchors (or queries) of the held-out rows; the corpus is their distinct positives,
    negatives and listed documents, enlarged by `corpus`. Or `queries`, `corpus` and `qrels` name a test collection of
    one's own, and no rows are read. Queries go through `encode_query`, documents through `encode_document`.

    Metrics carry the similarity function in front: `cosine_ndcg@10`. They and their definitions are those of the
    documentation; nDCG also takes graded relevance, with the grade as gain (as trec_eval does). For sparse models there are also
    active dimensions, FLOPS and the lengths of posting lists.
    """

    kinds: ClassVar[tuple[str, ...]] = RetrievalEvaluator.kinds
    metrics = metric_facts(*RETRIEVAL_METRICS)

    def evaluate(self, model: EmbeddingModel, sources: Mapping[str, Rows], *, batch_size: int) -> Evaluation:
        collection = self.collection(sources)
        found = self.find(model, collection, batch_size=batch_size)
        return self.score(collection, found, evaluator=self._name(), primary=self.primary(similarity=model.similarity_fn_name))

    def baselines(self, sources: Mapping[str, Rows], *, similarity: str) -> Mapping[str, Evaluation]:
        return {} if self.bm25 is None else {"bm25": self.rank_with(BM25(self.bm25), sources, similarity=similarity)}

    def rank_with(self, ranker: Ranker, sources: Mapping[str, Rows], *, similarity: str) -> Evaluation:
        """Evaluate any ranker under the metric names of a model with this similarity function."""
        collection = self.collection(sources)
        found = self.rank(ranker, collection, similarity=similarity)
        return self.score(collection, found, evaluator=self._name(), primary=self.primary(similarity=similarity))
