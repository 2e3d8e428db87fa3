"""The docstring pairs in the formats for distillation: BM25-nearest negatives as in triplets, labels by a teacher.

The score of a query and a document is the cosine of the teacher's embeddings, a margin that of the own source minus that of the
negative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from stpipe.data.docstring_formats import Options, nearest_sources, tuples
from stpipe.data.docstrings import Pair

Encode = Callable[[Sequence[str]], np.ndarray]


def scored(pairs: Sequence[Pair], options: Options, rows: np.ndarray, encode: Encode) -> pa.Table:
    """Some pairs with negatives and the teacher's label.

    Args:
        pairs: all of a split; negatives come from all of them.
        options: format triplet-score (label: margin over the nearest other source) or n-tuple-scores (label: list of the scores
            of the own source and of each negative).
        rows: (n,) numbers of the pairs that are asked for. Only texts of their rows are encoded, because that takes time.
        encode: texts -> (N, D) of unit length.
    """
    nearest = nearest_sources(pairs, options.negatives, rows)
    scores = teacher_scores(pairs, rows, nearest, encode)
    return tuples(pairs, rows, nearest).append_column("label", pa.array(LABELS[options.format](scores)))


def teacher_scores(pairs: Sequence[Pair], rows: np.ndarray, nearest: np.ndarray, encode: Encode) -> np.ndarray:
    """(n, 1 + k) float64 cosines of the queries of `rows` (n,) with their own sources, then with those of `nearest` (n, k)."""
    candidates = np.concatenate([rows[:, None], nearest], axis=1)
    needed, place = np.unique(candidates, return_inverse=True)
    texts = [*(pairs[i].query for i in rows), *(pairs[i].document for i in needed)]
    queries, documents = np.split(encode(texts).astype(np.float64), [len(rows)])
    columns = place.reshape(candidates.shape).T
    return np.stack([np.einsum("nd,nd->n", queries, documents[column]) for column in columns], axis=1)


LABELS: dict[str, Callable[[np.ndarray], Sequence[float | np.ndarray]]] = {
    "triplet-score": lambda scores: list(scores[:, 0] - scores[:, 1]),
    "n-tuple-scores": list,
}
