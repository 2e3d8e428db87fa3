"""Test collections made of held-out rows: distinct anchors ask, distinct texts on the other side answer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.config.errors import DataError
from stpipe.config.formats import negative_roles
from stpipe.core.rows import Rows
from stpipe.evaluation.ranking import Collection

QUERY_FORMATS = ("query-document", "query-documents")


def text_id(kind: str, text: str) -> str:
    """Identity of a text in run files: the same in every run, whatever else is in the data. 64 bits of its SHA-256.

    Documents are numbered in order of these ids, so equal scores are ranked in an order that has nothing to do with
    relevance (in file order positives would come first, and a model that scores all alike would look perfect).
    """
    return kind + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def judged_texts(rows: Rows) -> Iterator[tuple[str, str, float]]:
    """(query, document, grade) of every pair that the rows judge; grade 0 is a stated negative."""
    if rows.format == "query-documents":
        yield from _listed(rows)
        return
    if rows.format == "query-document":
        for i, (query, doc, label) in enumerate(zip(rows.columns["query"], rows.columns["document"], _labels(rows), strict=True)):
            yield query, doc, _grade(label, rows, i)
        return
    roles = ("anchor", "positive", *negative_roles(rows.columns))
    for query, positive, *negatives in zip(*(rows.columns[role] for role in roles), strict=True):
        yield query, positive, 1.0
        for negative in negatives:
            yield query, negative, 0.0


def _listed(rows: Rows) -> Iterator[tuple[str, str, float]]:
    for i, (query, docs, labels) in enumerate(zip(rows.columns["query"], rows.columns["documents"], _labels(rows), strict=True)):
        if len(docs) != len(labels):
            raise DataError(f"data set '{rows.name}', row {i}: {len(docs)} documents but {len(labels)} labels; give one label a document")
        for doc, label in zip(docs, labels, strict=True):
            yield query, doc, _grade(label, rows, i)


def _labels(rows: Rows) -> Sequence[Any]:
    if rows.labels is None:
        raise DataError(f"data set '{rows.name}' has no labels, but format {rows.format} grades documents by them")
    return rows.labels


def _grade(label: Any, rows: Rows, row: int) -> float:
    try:
        grade = float(label)
    except (TypeError, ValueError):
        grade = math.nan
    if not math.isfinite(grade):
        raise DataError(f"data set '{rows.name}', row {row}: label {label!r} is no finite number, so it grades no document")
    return grade


def prompts_of(rows: Rows) -> tuple[str | None, str | None]:
    """(query prompt, document prompt) of the rows; None where the data set says nothing and the model decides."""
    if rows.format in QUERY_FORMATS:
        return rows.prompts.get("query"), rows.prompts.get("documents", rows.prompts.get("document"))
    return rows.prompts.get("anchor"), rows.prompts.get("positive")


def collection_of(rows: Rows) -> tuple[Collection, list[NDArray[np.int64]]]:
    """The test collection of the rows, and for each query the documents that its rows list.

    A pair that is judged more than once has the highest of its grades.
    """
    queries: dict[str, dict[str, float]] = {}
    for query, doc, grade in judged_texts(rows):
        judged = queries.setdefault(query, {})
        judged[doc] = max(grade, judged.get(doc, -math.inf))
    doc_ids = {doc: text_id("d", doc) for judged in queries.values() for doc in judged}
    docs = sorted(doc_ids, key=doc_ids.__getitem__)
    number = {doc: i for i, doc in enumerate(docs)}
    query_prompt, doc_prompt = prompts_of(rows)
    collection = Collection(
        query_ids=[text_id("q", query) for query in queries],
        queries=list(queries),
        doc_ids=[doc_ids[doc] for doc in docs],
        docs=docs,
        grades=[{number[doc]: grade for doc, grade in judged.items()} for judged in queries.values()],
        query_prompt=query_prompt,
        doc_prompt=doc_prompt,
    )
    return collection, [np.array(sorted(grades), dtype=np.int64) for grades in collection.grades]


def keep_queries(collection: Collection, keep: Sequence[int]) -> Collection:
    """The same documents asked by the queries `keep` only."""
    return Collection(
        query_ids=[collection.query_ids[i] for i in keep],
        queries=[collection.queries[i] for i in keep],
        doc_ids=collection.doc_ids,
        docs=collection.docs,
        grades=[collection.grades[i] for i in keep],
        query_prompt=collection.query_prompt,
        doc_prompt=collection.doc_prompt,
    )


def answerable(collection: Collection, *, threshold: float) -> list[int]:
    """Numbers of the queries with at least one document graded above `threshold`."""
    return [i for i, grades in enumerate(collection.grades) if _any_above(grades, threshold)]


def _any_above(grades: Mapping[int, float], threshold: float) -> bool:
    return any(grade > threshold for grade in grades.values())
