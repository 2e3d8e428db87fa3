"""Reordering of given candidates by embeddings: each query against the documents that its own row lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stpipe.config.fields import option
from stpipe.config.metrics import metric_facts
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation.base import EmbeddingEvaluator, Evaluation
from stpipe.evaluation.bm25 import BM25
from stpipe.evaluation.candidates import ORDER_METRICS, RowOrderEvaluator
from stpipe.evaluation.encoding import EmbeddingModel
from stpipe.evaluation.search import EmbeddingSearch
from stpipe.evaluation.sparsity import width_metrics, width_values
from stpipe.ops.similarity import SimilarityName


@EVALUATORS.register("reranking", aliases=("RerankingEvaluator", "SparseRerankingEvaluator"))
@dataclass(frozen=True, kw_only=True)
class RerankingEvaluator(RowOrderEvaluator, EmbeddingEvaluator):
    """MAP, MRR and nDCG of the candidates of each query: its positives and negatives, or its list of documents.

    Rows with the same query are one query. Queries whose candidates are all relevant, or none of them, say nothing
    about order and are left out. Names and definitions are those of the documentation (`ndcg@10`, `map`, `mrr@10`),
    except that equal scores are ranked by document id instead of averaged.
    """

    metrics = metric_facts(*ORDER_METRICS, *width_metrics("query_"), *width_metrics("corpus_"))

    similarity: SimilarityName | None = option(None, help="Similarity function to rank by; None is the model's own.")
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
        collection, candidates = self.queries(rows)
        found = search.rerank_all(collection, candidates)
        widths = {**width_values(found.queries, "query_"), **width_values(found.docs, "corpus_")}
        return self.score(collection, next(iter(found.rankings.values())), widths)

    def baselines(self, sources: Mapping[str, Rows], *, similarity: str) -> Mapping[str, Evaluation]:
        return {} if self.bm25 is None else {"bm25": self.rank_with(BM25(self.bm25), self.pick(sources))}
