"""Where a test collection comes from: held-out rows, or three files of one's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from stpipe.config.errors import ConfigError, DataError
from stpipe.config.fields import option
from stpipe.core.rows import Rows
from stpipe.evaluation.base import Evaluation, Evaluator
from stpipe.evaluation.collection import answerable, collection_of, keep_queries
from stpipe.evaluation.encoding import EmbeddingModel
from stpipe.evaluation.judging import Grading
from stpipe.evaluation.ranking import Collection
from stpipe.evaluation.testfiles import add_corpus, read_collection


@dataclass(frozen=True, kw_only=True)
class CollectionEvaluator(Evaluator):
    """Evaluators that rank the documents of a whole collection for each query."""

    formats: ClassVar[tuple[str, ...]] = (
        "pair",
        "triplet",
        "n-tuple",
        "triplet-score",
        "n-tuple-scores",
        "query-document",
        "query-documents",
    )

    relevance_threshold: float = option(
        0.0, ge=0, help="Documents graded above this are relevant (labels of query-document formats, qrels)."
    )
    graded: bool = option(True, help="nDCG uses the grades as gains; false counts every relevant document as 1.")
    queries: str | None = option(None, help="File of one's own queries (.jsonl with _id and text, or .tsv); needs corpus and qrels.")
    corpus: str | None = option(None, help="File of documents: of one's own collection with `queries`, else added to the rows' documents.")
    qrels: str | None = option(None, help="File of judgements (.jsonl, BEIR .tsv or TREC); needs queries and corpus.")
    query_prompt: str | None = option(None, help="Put before each query; None is the data set's prompt, else the model's.")
    corpus_prompt: str | None = option(None, help="Put before each document; None is the data set's prompt, else the model's.")

    def __post_init__(self) -> None:
        if (self.queries is None) != (self.qrels is None) or (self.qrels is not None and self.corpus is None):
            raise ConfigError(
                f"{self._name()}: a test collection of one's own needs `queries`, `corpus` and `qrels` together "
                "(`corpus` alone enlarges the corpus of the held-out rows)"
            )

    def __call__(self, model: EmbeddingModel, rows: Rows, *, batch_size: int) -> Evaluation:
        return self.evaluate(model, {self.source or rows.name: rows}, batch_size=batch_size)

    def grading(self) -> Grading:
        """What the grades of this collection mean."""
        return Grading(self.relevance_threshold, self.graded)

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
                f"{self._name()}: no query of {origin} has a document graded above relevance_threshold = "
                f"{self.relevance_threshold}, so there is nothing to find; check the labels or lower the threshold"
            )
        return dataclasses.replace(
            keep_queries(collection, keep),
            query_prompt=collection.query_prompt if self.query_prompt is None else self.query_prompt,
            doc_prompt=collection.doc_prompt if self.corpus_prompt is None else self.corpus_prompt,
        )
