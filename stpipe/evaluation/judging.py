"""A ranking and the grades of its documents -> metrics of each query and their means.

Shape legend: Q queries, N documents, K ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.evaluation import metrics
from stpipe.evaluation.ranking import NO_DOC, Collection, Ranking


@dataclass(frozen=True)
class Judged:
    """A ranking with its grades, ready for metrics; see evaluation/metrics.py for the shapes."""

    gain: NDArray[np.float64]
    hit: NDArray[np.bool_]
    ideal: NDArray[np.float64]
    num_relevant: NDArray[np.int64]


@dataclass(frozen=True)
class Grading:
    """What grades mean.

    threshold: documents graded above it are relevant; graded: nDCG uses the grades as gains (below zero counts as zero),
    else 1 for a relevant document.
    """

    threshold: float = 0.0
    graded: bool = True

    def judge(self, collection: Collection, ranking: Ranking) -> Judged:
        """Look up the grade of every ranked document."""
        found = grades_of(collection, ranking)
        hit = found > self.threshold
        ideal = ideal_gains(collection)
        num_relevant = np.array([sum(g > self.threshold for g in grades.values()) for grades in collection.grades], dtype=np.int64)
        return Judged(self._gain(found), hit, self._gain(ideal), num_relevant)

    def _gain(self, grades: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gains of grades; -inf stands for a document without a grade."""
        return np.maximum(grades, 0.0) if self.graded else (grades > self.threshold).astype(np.float64)


def order_metrics(judged: Judged, at_k: int) -> dict[str, NDArray[np.float64]]:
    """What is said of an order of given documents: metric -> its value for each query. MAP takes all ranks."""
    return {
        f"ndcg@{at_k}": metrics.ndcg_at_k(judged.gain, judged.ideal, at_k),
        f"mrr@{at_k}": metrics.reciprocal_rank_at_k(judged.hit, at_k),
        "map": metrics.average_precision_at_k(judged.hit, judged.num_relevant),
    }


def grades_of(collection: Collection, ranking: Ranking) -> NDArray[np.float64]:
    """(Q, K) grade of each ranked document, -inf where it has none."""
    width = len(collection.docs)
    pairs = [(q * width + doc, grade) for q, grades in enumerate(collection.grades) for doc, grade in grades.items()]
    keys = np.array([key for key, _ in pairs], dtype=np.int64)
    order = keys.argsort()
    keys, values = keys[order], np.array([grade for _, grade in pairs], dtype=np.float64)[order]
    asked = np.arange(len(ranking.docs))[:, None] * width + ranking.docs
    place = np.searchsorted(keys, asked).clip(max=len(keys) - 1)
    known = (keys[place] == asked) & (ranking.docs != NO_DOC)
    return np.where(known, values[place], -np.inf)


def ideal_gains(collection: Collection) -> NDArray[np.float64]:
    """(Q, K') grades of each query in falling order, -inf behind the last."""
    best = np.full((len(collection.grades), max(map(len, collection.grades))), -np.inf)
    for row, grades in zip(best, collection.grades, strict=True):
        row[: len(grades)] = sorted(grades.values(), reverse=True)
    return best


def run_of(collection: Collection, ranking: Ranking) -> dict[str, dict[str, float]]:
    """query id -> document id -> score, best first, as float32 values that strictly fall.

    Tools that read run files order equal scores by document id, each in its own way, so a score that is not below the
    one before it becomes the next smaller float32. Then every tool sees the ranking that the metrics were computed from.
    """
    run = {}
    for query, docs, scores in zip(collection.query_ids, ranking.docs, ranking.scores, strict=True):
        used = docs != NO_DOC
        run[query] = dict(zip((collection.doc_ids[d] for d in docs[used]), strictly_falling(scores[used]), strict=True))
    return run


def strictly_falling(scores: NDArray[np.float32]) -> list[float]:
    """Falling scores (K,) with repeated values moved down to the next float32."""
    fixed: list[float] = []
    last = np.float32(np.inf)
    for score in scores.astype(np.float32):
        last = score if score < last else np.nextafter(last, np.float32(-np.inf))
        fixed.append(float(last))
    return fixed


def qrels_of(collection: Collection) -> dict[str, dict[str, float]]:
    """query id -> document id -> grade."""
    return {
        query: {collection.doc_ids[doc]: float(grade) for doc, grade in grades.items()}
        for query, grades in zip(collection.query_ids, collection.grades, strict=True)
    }


def per_query(collection: Collection, judged: Judged, values: Mapping[str, NDArray[np.float64]]) -> list[dict[str, Any]]:
    """One record a query: id, text, its metrics, and the rank of the first relevant document."""
    ranks = metrics.first_rank(judged.hit)
    return [
        {
            "query_id": collection.query_ids[i],
            "query": collection.queries[i],
            **{name: float(value[i]) for name, value in values.items()},
            "rank": int(ranks[i]) or None,
        }
        for i in range(len(collection.queries))
    ]
