"""Retrieval over a whole corpus: each query against every document."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from stpipe.config.errors import ConfigError, DataError
from stpipe.config.fields import option
from stpipe.config.metrics import cutoffs, metric, metric_facts, similarity_names
from stpipe.config.registry import EVALUATORS
from stpipe.core.rows import Rows
from stpipe.evaluation import metrics as formulas
from stpipe.evaluation.base import Evaluation, Evaluator
from stpipe.evaluation.bm25 import BM25, Tokens
from stpipe.evaluation.collection import answerable, collection_of, keep_queries
from stpipe.evaluation.encoding import EmbeddingModel
from stpipe.evaluation.judging import Grading, Judged, per_query, qrels_of, run_of
from stpipe.evaluation.ranking import Collection, Ranker, Ranking
from stpipe.evaluation.search import EmbeddingSearch
from stpipe.evaluation.testfiles import add_corpus, read_collection
from stpipe.ops.similarity import SimilarityName


@EVALUATORS.register("information_retrieval", aliases=("InformationRetrievalEvaluator",))
@dataclass(frozen=True, kw_only=True)
class InformationRetrievalEvaluator(Evaluator):
    """Accuracy, precision, recall, MRR, nDCG and MAP at k of exact search over all documents.

    Queries are the distinct anchors (or queries) of the held-out rows; the corpus is their distinct positives,
    negatives and listed documents, enlarged by `corpus`. Or `queries`, `corpus` and `qrels` name a test collection of
    one's own, and no rows are read. Queries go through `encode_query`, documents through `encode_document`.

    Metrics carry the similarity function in front: `cosine_ndcg@10`. They and their definitions are those of the
    documentation; nDCG also takes graded relevance, with the grade as gain (as trec_eval does).
    """

    formats: ClassVar[tuple[str, ...]] = ("pair", "triplet", "n-tuple", "query-document", "query-documents")
    metrics = metric_facts(
        metric("{similarity}_ndcg@{k}", ks="ndcg_at_k"),
        metric("{similarity}_accuracy@{k}", ks="accuracy_at_k"),
        metric("{similarity}_precision@{k}", ks="precision_recall_at_k"),
        metric("{similarity}_recall@{k}", ks="precision_recall_at_k"),
        metric("{similarity}_mrr@{k}", ks="mrr_at_k"),
        metric("{similarity}_map@{k}", ks="map_at_k"),
    )

    accuracy_at_k: tuple[int, ...] = option((1, 3, 5, 10), help="Cut-offs of accuracy: is any relevant document among the first k?")
    precision_recall_at_k: tuple[int, ...] = option((1, 3, 5, 10), help="Cut-offs of precision and recall.")
    mrr_at_k: tuple[int, ...] = option((10,), help="Cut-offs of the reciprocal rank of the first relevant document.")
    ndcg_at_k: tuple[int, ...] = option((10,), help="Cut-offs of nDCG; the largest is the primary metric.")
    map_at_k: tuple[int, ...] = option((100,), help="Cut-offs of average precision, divided by min(k, relevant documents).")
    similarities: tuple[SimilarityName, ...] | None = option(None, help="Similarity functions to rank by; None is the model's own.")
    main_similarity: SimilarityName | None = option(None, help="The one of the primary metric and of run files; None is the first.")
    relevance_threshold: float = option(
        0.0, ge=0, help="Documents graded above this are relevant (labels of query-document formats, qrels)."
    )
    graded: bool = option(True, help="nDCG uses the grades as gains; false counts every relevant document as 1.")
    queries: str | None = option(None, help="File of one's own queries (.jsonl with _id and text, or .tsv); needs corpus and qrels.")
    corpus: str | None = option(None, help="File of documents: of one's own collection with `queries`, else added to the rows' documents.")
    qrels: str | None = option(None, help="File of judgements (.jsonl, BEIR .tsv or TREC); needs queries and corpus.")
    query_prompt: str | None = option(None, help="Put before each query; None is the data set's prompt, else the model's.")
    corpus_prompt: str | None = option(None, help="Put before each document; None is the data set's prompt, else the model's.")
    truncate_dim: int | None = option(None, ge=1, help="Keep so many dimensions of the embeddings; None is the model's setting.")
    bm25: Tokens | None = option(
        "identifiers",
        help="Tokens of the BM25 baseline: words, or identifiers, which adds the parts of snake_case and camelCase words "
        "(on code a far stronger baseline, on prose the same); None is no baseline.",
    )
    corpus_chunk_size: int = option(10_000, ge=1, help="Documents encoded and held at a time. Bounds memory, never changes a rank.")
    query_chunk_size: int = option(256, ge=1, help="Queries scored at a time. Bounds memory, never changes a rank.")

    def __post_init__(self) -> None:
        if (self.queries is None) != (self.qrels is None) or (self.qrels is not None and self.corpus is None):
            raise ConfigError(
                "information_retrieval: a test collection of one's own needs `queries`, `corpus` and `qrels` together "
                "(`corpus` alone enlarges the corpus of the held-out rows)"
            )

    def __call__(self, model: EmbeddingModel, rows: Rows, *, batch_size: int) -> Evaluation:
        return self.evaluate(model, {self.source or rows.name: rows}, batch_size=batch_size)

    def evaluate(self, model: EmbeddingModel, sources: Mapping[str, Rows], *, batch_size: int) -> Evaluation:
        collection = self.collection(sources)
        functions = similarity_names(self._values(), similarity=model.similarity_fn_name)
        search = EmbeddingSearch(
            model,
            functions,
            batch_size=batch_size,
            truncate_dim=self.truncate_dim,
            corpus_chunk=self.corpus_chunk_size,
            query_chunk=self.query_chunk_size,
        )
        return self._score(collection, search.search_all(collection, depth=self._depth()), model.similarity_fn_name)

    def baseline(self, sources: Mapping[str, Rows], *, similarity: str) -> Evaluation | None:
        return None if self.bm25 is None else self.rank_with(BM25(self.bm25), sources, similarity=similarity)

    def rank_with(self, ranker: Ranker, sources: Mapping[str, Rows], *, similarity: str) -> Evaluation:
        """Evaluate any ranker under the metric names of a model with this similarity function."""
        collection = self.collection(sources)
        ranking = ranker.search(collection, depth=min(self._depth(), len(collection.docs)))
        functions = similarity_names(self._values(), similarity=similarity)
        return self._score(collection, dict.fromkeys(functions, ranking), similarity)

    def collection(self, sources: Mapping[str, Rows]) -> Collection:
        """Queries, documents and grades; queries without a relevant document are left out."""
        if self.queries is not None and self.corpus is not None and self.qrels is not None:
            collection = read_collection(queries=self.queries, corpus=self.corpus, qrels=self.qrels)
            origin = self.qrels
        else:
            rows = self.pick(sources)
            self.check(rows)
            collection, _ = collection_of(rows)
            collection = collection if self.corpus is None else add_corpus(collection, self.corpus)
            origin = f"data set '{rows.name}'"
        keep = answerable(collection, threshold=self.relevance_threshold)
        if not keep:
            raise DataError(
                f"information_retrieval: no query of {origin} has a document graded above relevance_threshold = "
                f"{self.relevance_threshold}, so there is nothing to find; check the labels or lower the threshold"
            )
        return dataclasses.replace(
            keep_queries(collection, keep),
            query_prompt=collection.query_prompt if self.query_prompt is None else self.query_prompt,
            doc_prompt=collection.doc_prompt if self.corpus_prompt is None else self.corpus_prompt,
        )

    def _score(self, collection: Collection, rankings: Mapping[str, Ranking], similarity: str) -> Evaluation:
        grading = Grading(self.relevance_threshold, self.graded)
        judged = {fn: grading.judge(collection, ranking) for fn, ranking in rankings.items()}
        values = {fn: self._metrics(result) for fn, result in judged.items()}
        lead: str = self.main_similarity or next(iter(rankings))
        found = {f"{fn}_{name}": float(value.mean()) for fn, by_name in values.items() for name, value in by_name.items()}
        primary = self.primary(similarity=similarity)
        return Evaluation(
            metrics=found,
            primary=primary,
            evaluator=self._name(),
            num_queries=len(collection.queries),
            per_query=per_query(collection, judged[lead], values[lead]),
            query_metric=primary.removeprefix(f"{lead}_"),
            run=run_of(collection, rankings[lead]),
            qrels=qrels_of(collection),
        )

    def _metrics(self, judged: Judged) -> dict[str, NDArray[np.float64]]:
        """Metric without similarity function -> its value for each query."""
        hit, relevant, settings = judged.hit, judged.num_relevant, self._values()
        found = {f"ndcg@{k}": formulas.ndcg_at_k(judged.gain, judged.ideal, k) for k in cutoffs("ndcg_at_k", settings)}
        found |= {f"accuracy@{k}": formulas.accuracy_at_k(hit, k) for k in cutoffs("accuracy_at_k", settings)}
        found |= {f"precision@{k}": formulas.precision_at_k(hit, k) for k in cutoffs("precision_recall_at_k", settings)}
        found |= {f"recall@{k}": formulas.recall_at_k(hit, relevant, k) for k in cutoffs("precision_recall_at_k", settings)}
        found |= {f"mrr@{k}": formulas.reciprocal_rank_at_k(hit, k) for k in cutoffs("mrr_at_k", settings)}
        found |= {f"map@{k}": formulas.average_precision_at_k(hit, relevant, k) for k in cutoffs("map_at_k", settings)}
        return found

    def _depth(self) -> int:
        lists = (self.accuracy_at_k, self.precision_recall_at_k, self.mrr_at_k, self.ndcg_at_k, self.map_at_k)
        return max(k for ks in lists for k in ks)
