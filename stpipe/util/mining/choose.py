"""Which of the eligible candidates become negatives.

Shape legend: q queries, C candidates of each, n negatives wanted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stpipe.util.mining.rules import CHOSEN, ELIGIBLE, Verdicts
from stpipe.util.mining.settings import Rules

#: Where a query has fewer negatives than wanted.
NONE = -1
Ints = NDArray[np.int64]


def first_of(verdicts: Verdicts, count: int) -> Ints:
    """(q, n) columns of the first `count` eligible candidates of each query, NONE behind the last."""
    places = np.argsort(verdicts != ELIGIBLE, axis=1, kind="stable")[:, :count]
    there = np.take_along_axis(verdicts, places, axis=1) == ELIGIBLE
    return padded(np.where(there, places, NONE), count)


def random_of(verdicts: Verdicts, count: int, *, seed: int, first_query: int) -> Ints:
    """(q, n) columns of `count` eligible candidates drawn with equal chances, in the order of the candidates.

    Each query has a random stream of its own, by its number, so a draw depends neither on the other queries nor on how they
    were cut into blocks.
    """
    draws = np.stack([np.random.default_rng([seed, first_query + i]).random(verdicts.shape[1]) for i in range(len(verdicts))])
    draws = np.where(verdicts == ELIGIBLE, draws, np.inf)
    order = np.argsort(draws, axis=1, kind="stable")[:, :count]
    there = np.isfinite(np.take_along_axis(draws, order, axis=1))
    last = verdicts.shape[1]
    places = np.sort(np.where(there, order, last), axis=1)
    return padded(np.where(places == last, NONE, places), count)


def padded(places: Ints, count: int) -> Ints:
    """`count` columns, also where there are fewer candidates than that."""
    return np.pad(places, ((0, 0), (0, count - places.shape[1])), constant_values=NONE)


def choose(verdicts: Verdicts, rules: Rules, *, first_query: int) -> tuple[Ints, Verdicts]:
    """(columns (q, n) of the negatives, the verdicts with CHOSEN for them).

    Args:
        verdicts: from `judge`.
        rules: how many, and how.
        first_query: number of the first query among all.
    """
    if rules.sampling_strategy == "random":
        places = random_of(verdicts, rules.num_negatives, seed=rules.seed, first_query=first_query)
    else:
        places = first_of(verdicts, rules.num_negatives)
    chosen = verdicts.copy()
    row, column = np.nonzero(places != NONE)
    chosen[row, places[row, column]] = CHOSEN
    return places, chosen
