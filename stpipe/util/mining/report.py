"""What a mining found, in numbers: scores, what each rule took out, suspected false negatives, what training on it will cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stpipe.search.top_k import NO_DOC
from stpipe.util.mining.mine import Block
from stpipe.util.mining.pairs import Pairs
from stpipe.util.mining.rules import CHOSEN, ELIGIBLE, NAMES, RANGE_MAX, RANGE_MIN, SCORE_RULES, Mask, is_positive
from stpipe.util.mining.settings import Rules

BINS = 40
SUSPECTS = 20
TEXT = 500  # characters of a text in the report
SAMPLE = 500  # texts whose tokens are counted
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
QUANTILE_NAMES = ("min", "q25", "median", "q75", "max")

#: texts -> number of tokens of each, as the model cuts them.
TokenCounter = Callable[[list[str]], Sequence[int]]
#: row numbers in rising order -> the texts of each of these rows, the query first.
RowTexts = Callable[[list[int]], list[list[str]]]


@dataclass(frozen=True)
class Dropped:
    """What one rule took out. share: of the candidates that were there when the rule was applied."""

    rule: str
    value: float
    dropped: int
    share: float


@dataclass(frozen=True)
class Suspect:
    """A document that scores above its query's positive, or within the margins of it: perhaps an answer, too.

    verdict: "chosen" (it is among the negatives), or the rule that took it out.
    """

    query: str
    positive: str
    text: str
    score: float
    positive_score: float
    verdict: str


@dataclass(frozen=True)
class Cost:
    """What one pass over the output is. texts: with repeats; tokens: of all texts, estimated from `sampled` of them, None without tokenizer."""

    rows: int
    texts: int
    pairs: int
    tokens: int | None = None
    sampled: int = 0


@dataclass(frozen=True)
class MiningReport:
    """See the fields; `as_dict` is what mine.json holds.

    settings: models and parameters; rows, queries, corpus: of the input; pool: candidates looked at for each query;
    candidates: those that were there and no positives; negatives: chosen ones; short: queries with fewer negatives than
    wanted; none: queries without any; found: share of positives that are in the pool; first: share of queries whose nearest
    document is a positive; rules: what each one took out; above: chosen negatives that score above their query's lowest
    positive; scores: of positives, negatives, differences, each min, quartiles, max, mean and std; histogram: edges and the
    counts of positives, negatives and of the candidates that score rules took out; suspects: the worst of them; cost: of training.
    """

    settings: dict[str, Any]
    rows: int
    queries: int
    corpus: int
    pool: int
    candidates: int
    negatives: int
    short: int
    none: int
    found: float
    first: float
    above: int
    rules: tuple[Dropped, ...]
    scores: dict[str, dict[str, float]]
    histogram: dict[str, list[float]]
    suspects: tuple[Suspect, ...]
    cost: Cost

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """A summary for a terminal."""
        wanted = self.settings["num_negatives"]
        found = [
            f"{self.negatives:,} negatives for {self.queries:,} queries ({self.rows:,} rows), from {self.corpus:,} documents, {self.pool} a query",
            f"{self.first:.1%} of the queries have a positive as their nearest document; {self.found:.1%} of the positives are in the pool",
        ]
        for name, values in self.scores.items():
            found.append(f"{name:<12}" + "  ".join(f"{key} {value:.4f}" for key, value in values.items()))
        found += [f"{rule.rule}={rule.value:g} took out {rule.dropped:,} candidates ({rule.share:.2%})" for rule in self.rules]
        if self.short:
            found.append(
                f"{self.short:,} queries have fewer than {wanted} negatives, {self.none:,} of them none; raise range_max, or loosen the rules"
            )
        if self.above:
            found.append(f"{self.above:,} negatives score above their query's positive: some may be answers, too (see suspects)")
        tokens = "" if self.cost.tokens is None else f", about {self.cost.tokens:,} tokens"
        found.append(f"one pass over the output: {self.cost.rows:,} rows, {self.cost.pairs:,} pairs to score{tokens}")
        return found


class ReportBuilder:
    """Adds up blocks, one at a time; the candidates themselves are not kept.

    Args:
        pairs: what was mined.
        rules: resolved.
    """

    def __init__(self, pairs: Pairs, rules: Rules) -> None:
        self.pairs, self.rules = pairs, rules
        self.counts = np.zeros(len(NAMES), np.int64)
        self.positive: list[NDArray[np.float32]] = []
        self.negative: list[NDArray[np.float32]] = []
        self.difference: list[NDArray[np.float32]] = []
        self.short = self.none = self.found = self.first = self.above = 0
        self.suspects: list[tuple[float, int, int, int, float, int]] = []

    def add(self, block: Block) -> None:
        """Take in one block."""
        self.counts += np.bincount(block.verdicts.reshape(-1), minlength=len(NAMES))
        own, positives = self.pairs.of(block.queries)
        is_own = is_positive(block.docs, own, positives)
        picked = np.take_along_axis(is_own, np.maximum(block.places, 0), axis=1)
        there = (block.negatives != NO_DOC) & ~picked  # positives are chosen, too, under include_positives
        self.positive.append(block.positive_scores)
        self.negative.append(block.negative_scores[there])
        pair, column = np.nonzero(there[own])
        self.difference.append(block.positive_scores[pair] - block.negative_scores[own][pair, column])
        number = (block.negatives != NO_DOC).sum(axis=1)
        self.short += int((number < there.shape[1]).sum())
        self.none += int((number == 0).sum())
        self.found += int(is_own.sum())
        self.first += int(is_own[:, 0].sum())
        self._suspect(block, own, positives, is_own)

    def _suspect(self, block: Block, own: NDArray[np.int64], positives: NDArray[np.int64], is_own: Mask) -> None:
        """Keep the worst: candidates above, or within the margins of, the lowest positive of their query."""
        order = np.lexsort((block.positive_scores, own))
        first = order[np.unique(own[order], return_index=True)[1]]  # place of each query's lowest positive among the pairs
        lowest = block.positive_scores[first]
        over = (block.verdicts == CHOSEN) & (block.scores > lowest[:, None]) & ~is_own
        self.above += int(over.sum())
        gaps = np.where(over | np.isin(block.verdicts, SCORE_RULES[:2]), block.scores - lowest[:, None], -np.inf)
        column = gaps.argmax(axis=1)  # one for each query, else few queries would fill the report
        row = np.flatnonzero(gaps.max(axis=1) > -np.inf)
        column, gap = column[row], gaps[row, column[row]]
        for place in np.argsort(-gap, kind="stable")[:SUSPECTS]:
            q, c = int(row[place]), int(column[place])
            texts = (block.first + q, int(positives[first[q]]), int(block.docs[q, c]))
            self.suspects.append((float(gap[place]), *texts, float(block.scores[q, c]), int(block.verdicts[q, c])))
        self.suspects = sorted(self.suspects, key=lambda s: (-s[0], s[1], s[3]))[:SUSPECTS]

    def report(self, blocks: Iterable[Block], *, settings: dict[str, Any], pool: int, cost: Cost) -> MiningReport:
        """The report of all blocks that were added.

        Args:
            blocks: the same again, for a histogram of what the rules took out.
            settings: models and parameters.
            pool: candidates a query.
            cost: of training on the output.
        """
        queries, corpus = len(self.pairs), len(self.pairs.corpus)
        positive, negative, difference = (joined(parts) for parts in (self.positive, self.negative, self.difference))
        candidates = int(self.counts[[ELIGIBLE, CHOSEN, *SCORE_RULES, RANGE_MIN, RANGE_MAX]].sum())
        return MiningReport(
            settings=settings,
            rows=self.pairs.rows,
            queries=queries,
            corpus=corpus,
            pool=pool,
            candidates=candidates,
            negatives=len(negative),
            short=self.short,
            none=self.none,
            found=self.found / len(self.pairs.positives),
            first=self.first / queries,
            above=self.above,
            rules=self._rules(candidates),
            scores={"positives": summary(positive), "negatives": summary(negative), "differences": summary(difference)},
            histogram=histogram(positive, negative, blocks),
            suspects=tuple(self._suspects()),
            cost=cost,
        )

    def _rules(self, candidates: int) -> tuple[Dropped, ...]:
        found = []
        for verdict in (*SCORE_RULES, RANGE_MIN):
            value = getattr(self.rules, NAMES[verdict])
            if value is None or (verdict == RANGE_MIN and value == 0):
                continue
            dropped = int(self.counts[verdict])
            found.append(Dropped(NAMES[verdict], float(value), dropped, dropped / candidates if candidates else 0.0))
            candidates -= dropped
        return tuple(found)

    def _suspects(self) -> Iterable[Suspect]:
        for gap, query, positive, doc, score, verdict in self.suspects:
            asked, answer, text = self.pairs.queries[query], self.pairs.corpus[positive], self.pairs.corpus[doc]
            yield Suspect(asked[:TEXT], answer[:TEXT], text[:TEXT], score, score - gap, NAMES[verdict])


def joined(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """One array of several, also of none."""
    return np.concatenate([np.zeros(0, np.float32), *parts])


def summary(values: NDArray[np.float32]) -> dict[str, float]:
    """min, quartiles, max, mean and std; empty without values."""
    if not values.size:
        return {}
    wide = values.astype(np.float64)
    quantiles = dict(zip(QUANTILE_NAMES, map(float, np.quantile(wide, QUANTILES)), strict=True))
    return {**quantiles, "mean": float(wide.mean()), "std": float(wide.std())}


def histogram(positive: NDArray[np.float32], negative: NDArray[np.float32], blocks: Iterable[Block]) -> dict[str, list[float]]:
    """Counts in equal bins over all scores; what lies below the lowest score of the first two counts in the first bin."""
    shown = joined([positive, negative])
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    dropped = np.zeros(BINS, np.int64)
    for block in blocks:
        values = block.scores[np.isin(block.verdicts, SCORE_RULES)]
        dropped += np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    counts = {"positives": np.histogram(positive, edges)[0], "negatives": np.histogram(negative, edges)[0], "dropped": dropped}
    return {"edges": edges.tolist(), **{name: values.tolist() for name, values in counts.items()}}


def cost_of(rows: int, texts_of: RowTexts, count: TokenCounter | None) -> Cost:
    """What one pass over `rows` rows is, from the texts of some of them, drawn by a fixed seed.

    Args:
        rows: of the output.
        texts_of: row numbers -> the texts of each row, the query first.
        count: counts tokens; None leaves them out.
    """
    if not rows:
        return Cost(0, 0, 0, 0 if count else None)
    chosen = np.sort(np.random.default_rng(0).choice(rows, min(rows, SAMPLE), replace=False)).tolist()
    sampled = texts_of(chosen)
    share = rows / len(chosen)
    texts = round(sum(map(len, sampled)) * share)
    pairs = round(sum(len(row) - 1 for row in sampled) * share)
    if count is None:
        return Cost(rows, texts, pairs)
    flat = [text for row in sampled for text in row]
    return Cost(rows, texts, pairs, math.ceil(sum(count(flat)) * share), len(flat))
