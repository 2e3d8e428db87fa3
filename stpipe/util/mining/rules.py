"""What makes a candidate no negative: one rule a function, on arrays, without a model.

A rule says which candidates it takes out (a mask); `judge` applies them in order and writes down for each candidate the
first rule that took it. Nothing is drawn by chance here.

Shape legend: q queries, C candidates of each, best first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stpipe.config.errors import ConfigError
from stpipe.search.top_k import NO_DOC
from stpipe.util.mining.settings import Rules

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Verdicts = NDArray[np.uint8]

#: What became of a candidate, by number. ELIGIBLE ones passed all rules and were not chosen, CHOSEN ones are the negatives.
ELIGIBLE, CHOSEN, ABSENT, POSITIVE, ABSOLUTE_MARGIN, RELATIVE_MARGIN, MAX_SCORE, MIN_SCORE, RANGE_MIN, RANGE_MAX = range(10)
NAMES = (
    "eligible",
    "chosen",
    "absent",
    "positive",
    "absolute_margin",
    "relative_margin",
    "max_score",
    "min_score",
    "range_min",
    "range_max",
)
#: Verdicts of the rules that look at scores, in the order in which they are applied.
SCORE_RULES = (ABSOLUTE_MARGIN, RELATIVE_MARGIN, MAX_SCORE, MIN_SCORE)


@dataclass(frozen=True)
class Candidates:
    """Documents that might be negatives.

    docs (q, C) int64, NO_DOC where there are no more; scores (q, C) float32, -inf there; positive (q, C): documents that
    belong to the query; lowest (q,) float32: least score of the query's positives.
    """

    docs: Ints
    scores: Floats
    positive: Mask
    lowest: Floats

    def sorted(self) -> Candidates:
        """By score, best first, equal ones by document number; for scores of another model than the one that found them."""
        order = np.lexsort((self.docs, -self.scores), axis=1)
        return Candidates(
            np.take_along_axis(self.docs, order, axis=1),
            np.take_along_axis(self.scores, order, axis=1),
            np.take_along_axis(self.positive, order, axis=1),
            self.lowest,
        )


def is_positive(docs: Ints, of_query: Ints, positives: Ints) -> Mask:
    """(q, C) where a candidate is one of its query's own documents; pair i is (query of_query[i], document positives[i])."""
    width = 1 + int(max(docs.max(initial=0), positives.max(initial=0)))
    own = of_query * width + positives
    return np.isin(np.arange(len(docs))[:, None] * width + docs, own) & (docs != NO_DOC)


def lowest_of(scores: Floats, of_query: Ints, num_queries: int) -> Floats:
    """(q,) least score of each query's positives, from the scores (p,) of all pairs."""
    lowest = np.full(num_queries, np.inf, np.float32)
    np.minimum.at(lowest, of_query, scores)
    return lowest


def within_absolute_margin(found: Candidates, margin: float) -> Mask:
    """score + margin > positive: not clearly farther from the query than its positive."""
    return found.scores + np.float32(margin) > found.lowest[:, None]


def within_relative_margin(found: Candidates, margin: float) -> Mask:
    """score > positive - |positive| margin; NV-Retriever's TopK-PercPos (arXiv 2407.15831, section 4.1) for positives above 0.

    The magnitude keeps the threshold below the positive where scores are negative.
    """
    threshold = found.lowest - np.abs(found.lowest) * np.float32(margin)
    return found.scores > threshold[:, None]


def above(found: Candidates, limit: float) -> Mask:
    """score > limit: so near that it may well be an answer."""
    return found.scores > np.float32(limit)


def below(found: Candidates, limit: float) -> Mask:
    """score < limit: so far that it teaches nothing."""
    return found.scores < np.float32(limit)


def outside_range(alive: Mask, first: int, last: int) -> tuple[Mask, Mask]:
    """(nearer, farther) than the ranks first .. last - 1 among the candidates that are still there (`alive`, best first)."""
    rank = np.cumsum(alive, axis=1) - 1
    return alive & (rank < first), alive & (rank >= last)


def judge(found: Candidates, rules: Rules) -> Verdicts:
    """(q, C) what becomes of each candidate: ELIGIBLE, or the first rule that took it out.

    Ranks are counted after the other rules, so that `range_min` skips the nearest of those that could be chosen.
    """
    verdicts = np.full(found.docs.shape, ELIGIBLE, np.uint8)
    for verdict, mask in _masks(found, rules):
        verdicts[mask & (verdicts == ELIGIBLE)] = verdict
    nearer, farther = outside_range(verdicts == ELIGIBLE, rules.range_min, rules.pool)
    verdicts[nearer] = RANGE_MIN
    verdicts[farther] = RANGE_MAX
    return verdicts


def _masks(found: Candidates, rules: Rules) -> Iterator[tuple[int, Mask]]:
    yield ABSENT, found.docs == NO_DOC
    if not rules.include_positives:
        yield POSITIVE, found.positive
    if rules.absolute_margin is not None:
        yield ABSOLUTE_MARGIN, within_absolute_margin(found, rules.absolute_margin)
    if rules.relative_margin is not None:
        yield RELATIVE_MARGIN, within_relative_margin(found, rules.relative_margin)
    if rules.max_score is not None:
        yield MAX_SCORE, above(found, rules.max_score)
    if rules.min_score is not None:
        yield MIN_SCORE, below(found, rules.min_score)


def refuse_nan(scores: Floats, what: str) -> None:
    """Scores that are not numbers would pass every rule."""
    if np.isnan(scores).any():
        raise ConfigError(f"the {what} gives NaN as the score of {int(np.isnan(scores).sum())} of {scores.size} pairs; it has diverged")
