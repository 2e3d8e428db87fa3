"""The docstring pairs in every data format, with labels that mean something.

Grades of a (query, document) pair: 1.0 own source, 0.6 another function of the same class or section (or the class around it),
0.3 same module, 0.0 another module, for which pair-score and pair-class take one of another package. The source of a class holds
that of its methods, so neither is ever a negative of the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import bm25s
import numpy as np
import pyarrow as pa
import xxhash

from stpipe.data.docstrings import Pair, words

OWN, SECTION, MODULE, UNRELATED = 1.0, 0.6, 0.3, 0.0


@dataclass(frozen=True, slots=True)
class Options:
    """format: its name; negatives: hard negatives a row; documents: BM25-nearest functions a list, the own source comes on top."""

    format: str = "pair"
    negatives: int = 1
    documents: int = 8


def grade(query: Pair, document: Pair) -> float:
    """How much the document of one pair has to do with the query of another."""
    if query is document:
        return OWN
    if query.section == document.section or encloses(query, document) or encloses(document, query):
        return SECTION
    if query.module == document.module:
        return MODULE
    return UNRELATED


def encloses(outer: Pair, inner: Pair) -> bool:
    """True when the source of one definition holds that of the other."""
    scope = f"{outer.module if ':' in outer.section else outer.section}.{outer.name}"
    return inner.section == scope or inner.section.startswith(scope + ".")


def _text(pairs: Sequence[Pair], options: Options) -> pa.Table:
    return pa.table({"anchor": [text for p in pairs for text in (p.query, p.document)]})


def _pair(pairs: Sequence[Pair], options: Options) -> pa.Table:
    return pa.table({"anchor": [p.query for p in pairs], "positive": [p.document for p in pairs]})


def _labelled_text(pairs: Sequence[Pair], options: Options) -> pa.Table:
    """Both texts of every pair; the class is the module."""
    table = _text(pairs, options)
    return table.append_column("label", pa.array([p.module for p in pairs for _ in range(2)]))


def _pair_score(pairs: Sequence[Pair], options: Options) -> pa.Table:
    """One row for each grade that the query has a document for."""
    return _graded(pairs, {(g,): g for g in (OWN, SECTION, MODULE, UNRELATED)})


def _pair_class(pairs: Sequence[Pair], options: Options) -> pa.Table:
    """One row for each of the classes own, same_module, unrelated that the query has a document for."""
    return _graded(pairs, {(OWN,): "own", (SECTION, MODULE): "same_module", (UNRELATED,): "unrelated"})


def _graded(pairs: Sequence[Pair], labels: Mapping[tuple[float, ...], float | str]) -> pa.Table:
    """labels: grades -> what a document of one of them is labelled."""
    modules: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        modules[pair.module].append(pair)
    rows = []
    for pair in pairs:
        for grades, label in labels.items():
            other = _partner(pair, grades, pairs if UNRELATED in grades else modules[pair.module])
            if other is not None:
                rows.append((pair.query, other.document, label))
    anchors, positives, values = zip(*rows, strict=True)
    return pa.table({"anchor": anchors, "positive": positives, "label": values})


def _partner(pair: Pair, grades: tuple[float, ...], pool: Sequence[Pair]) -> Pair | None:
    """The first function of one of the grades from a place that a hash of the query decides; None when there is none.

    UNRELATED asks for another package.
    """
    start = xxhash.xxh64_intdigest(f"{grades} {pair.query}".encode()) % len(pool)
    candidates = (pool[(start + i) % len(pool)] for i in range(len(pool)))
    if UNRELATED in grades:
        return next((p for p in candidates if p.package != pair.package), None)
    return next((p for p in candidates if grade(pair, p) in grades), None)


def _tuple(pairs: Sequence[Pair], options: Options) -> pa.Table:
    return tuples(pairs, np.arange(len(pairs)), nearest_sources(pairs, options.negatives))


def tuples(pairs: Sequence[Pair], rows: np.ndarray, nearest: np.ndarray) -> pa.Table:
    """The pairs numbered `rows` (n,) with the sources of the pairs `nearest` (n, k) as negatives."""
    columns = {f"negative_{k + 1}": [pairs[i].document for i in nearest[:, k]] for k in range(nearest.shape[1])}
    return pa.table({"anchor": [pairs[i].query for i in rows], "positive": [pairs[i].document for i in rows], **columns})


def _query_documents(pairs: Sequence[Pair], options: Options) -> pa.Table:
    """The own source and the BM25-nearest other ones, graded, in an order that says nothing."""
    documents, labels = [], []
    for pair, others in zip(pairs, nearest_sources(pairs, options.documents), strict=True):
        candidates = sorted([pair, *(pairs[i] for i in others)], key=lambda p: xxhash.xxh64_intdigest((pair.query + p.document).encode()))
        documents.append([p.document for p in candidates])
        labels.append([grade(pair, p) for p in candidates])
    return pa.table({"query": [p.query for p in pairs], "documents": documents, "label": labels})


def _query_document(pairs: Sequence[Pair], options: Options) -> pa.Table:
    """The own source (1.0) and as many BM25-nearest other ones (0.0) as `negatives` says, one a row."""
    rows = []
    for pair, others in zip(pairs, nearest_sources(pairs, options.negatives), strict=True):
        rows += [(pair.query, pair.document, 1.0), *((pair.query, pairs[i].document, 0.0) for i in others)]
    queries, documents, labels = zip(*rows, strict=True)
    return pa.table({"query": queries, "document": documents, "label": labels})


def nearest_sources(pairs: Sequence[Pair], count: int, rows: np.ndarray | None = None) -> np.ndarray:
    """(N, count) the other sources that BM25 ranks first for each query; fewer columns when there are fewer functions.

    rows (N,): the pairs whose queries are asked; None is all of them.
    """
    vocabulary: dict[str, int] = {}
    corpus = [[vocabulary.setdefault(w, len(vocabulary)) for w in words(p.document)] for p in pairs]
    asked = range(len(pairs)) if rows is None else rows.tolist()
    model = bm25s.BM25()
    model.index((corpus, vocabulary), show_progress=False)
    count = min(count, len(pairs) - 1)
    family = _families(pairs)
    out = np.empty((len(asked), count), np.int64)
    for row, i in enumerate(asked):
        query = [vocabulary[w] for w in words(pairs[i].query) if w in vocabulary]
        scores = model.get_scores_from_ids(query) if query else np.zeros(len(pairs), np.float32)
        scores[[i, *family.get(i, ())]] = -np.inf
        best = np.argpartition(-scores, count - 1)[:count]
        out[row] = best[np.lexsort((best, -scores[best]))]
    return out


def _families(pairs: Sequence[Pair]) -> dict[int, list[int]]:
    """Place of each pair -> places of those whose source holds its own, or is held by it."""
    found: dict[int, list[int]] = defaultdict(list)
    modules: dict[str, list[int]] = defaultdict(list)
    for i, pair in enumerate(pairs):
        modules[pair.module].append(i)
    for members in modules.values():
        for i in members:
            for j in members:
                if encloses(pairs[i], pairs[j]):
                    found[i].append(j)
                    found[j].append(i)
    return found


FORMATTERS: dict[str, Callable[[Sequence[Pair], Options], pa.Table]] = {
    "text": _text,
    "labelled-text": _labelled_text,
    "pair": _pair,
    "pair-score": _pair_score,
    "pair-class": _pair_class,
    "triplet": _tuple,
    "n-tuple": _tuple,
    "query-document": _query_document,
    "query-documents": _query_documents,
}
