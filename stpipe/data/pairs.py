"""The collator of cross-encoders: rows -> pairs of query and candidate, each pair one input of the model.

Tokens of single texts come from the cache and are joined here, in the worker that makes the batch. Negatives from other rows of the
batch are drawn here too, because a cross-encoder has to see each pair: they are a rule for making pairs, not a part of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stpipe.config.errors import DataError
from stpipe.config.formats import QUERY_ROLES
from stpipe.core.batch import Batch, TextColumn
from stpipe.core.pairs import PairTemplate
from stpipe.core.tokens import Tokens
from stpipe.data.prepared import PreparedSource
from stpipe.data.texts import TextRole, offsets_of

#: The only role of a batch of pairs.
PAIR = "pair"


@dataclass(frozen=True, slots=True)
class Texts:
    """Some texts of a data set, role after role laid end to end."""

    source: PreparedSource
    roles: Sequence[tuple[str, TextRole]]

    def tokens(self) -> Tokens:
        return Tokens.cat([self.source.text_column(role, texts).tokens for role, texts in self.roles])

    def text_ids(self) -> np.ndarray:
        """(N,) int64 equal for equal texts."""
        return np.concatenate([self.source.text_ids_of(role, texts) for role, texts in self.roles])

    def whole_lengths(self, limit: int | None) -> Tensor:
        """(N,) int64 tokens of each text before it was cut at `limit`; a role whose own limit is below that has no more."""
        found = []
        for role, texts in self.roles:
            own = self.source.max_lengths[role]
            cut_by_role = own is not None and limit is not None and own < limit
            found.append(
                self.source.text_column(role, texts).tokens.lengths.numpy() if cut_by_role else self.source.full_lengths(role, texts)
            )
        return torch.from_numpy(np.concatenate(found))

    def raw(self) -> list[str]:
        """The texts themselves, with the prompt of their role."""
        return [self.source.prompts[role] + text for role, texts in self.roles for text in self.source.texts_of(role, texts)]

    def raw_and_prompt(self) -> tuple[list[str], str]:
        """The texts of the only role, and its prompt, which a chat template puts elsewhere than before the text."""
        ((role, texts),) = self.roles
        return self.source.texts_of(role, texts), self.source.prompts[role]


class Joiner(Protocol):
    """Makes the input of pair k of the texts first[i[k]] and second[j[k]]."""

    def __call__(self, first: Texts, i: np.ndarray, second: Texts, j: np.ndarray) -> Tokens: ...

    def length(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Tokens of pairs of texts with so many tokens; an estimate where only making the pair tells."""
        ...


@dataclass(frozen=True)
class JoinedTokens:
    """Pairs from cached tokens. template: of the tokenizer; max_length: longest pair in tokens, None has no limit."""

    template: PairTemplate
    max_length: int | None

    def __call__(self, first: Texts, i: np.ndarray, second: Texts, j: np.ndarray) -> Tokens:
        a, b = torch.from_numpy(i), torch.from_numpy(j)
        return self.template.join(
            first.tokens().rows(a),
            second.tokens().rows(b),
            max_length=self.max_length,
            first_lengths=first.whole_lengths(self.max_length)[a],
            second_lengths=second.whole_lengths(self.max_length)[b],
        )

    def length(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return at_most(first + second + self.template.extra, self.max_length)


@dataclass(frozen=True)
class TokenizedPairs:
    """Pairs by the tokenizer itself, for tokenizers whose pairs cannot be joined.

    tokenize: ([(query, document), ...], prompt of the queries) -> Tokens; max_length: longest pair in tokens, None has no limit; overhead: tokens that a
    template adds to the two texts.
    """

    tokenize: Callable[[Sequence[tuple[str, str]], str], Tokens]
    max_length: int | None
    overhead: int = 0

    def __call__(self, first: Texts, i: np.ndarray, second: Texts, j: np.ndarray) -> Tokens:
        (queries, prompt), documents = first.raw_and_prompt(), second.raw()
        return self.tokenize([(queries[a], documents[b]) for a, b in zip(i.tolist(), j.tolist(), strict=True)], prompt)

    def length(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return at_most(first + second + self.overhead, self.max_length)


def at_most(lengths: np.ndarray, limit: int | None) -> np.ndarray:
    """The lengths, or the limit where they are greater."""
    return lengths if limit is None else np.minimum(lengths, limit)


@dataclass(frozen=True)
class PairCollator:
    """Rows of one data set as a batch with the one role `pair`; counts: candidates of each row.

    The query is the role anchor or query; its candidates are all other texts of the row, the positive first, then the negatives in
    order, or its documents, and after them the sampled negatives.

    join: makes the pairs; sampled: negatives that each row gets from the candidates of the other rows of the global batch. They are
    distinct, and none has the text of a candidate of the row, or of one of another row with the same query; a row that finds fewer has
    fewer. The draw depends on the seed, the row and the texts, not on how many processes there are.
    """

    join: Joiner
    sampled: int = 0

    def __call__(self, source: PreparedSource, rows: np.ndarray, part: slice, seed: int) -> Batch:
        """The rows `part` of the global batch `rows`."""
        # Only a draw of negatives has to see the rows of the other processes.
        seen = rows if self.sampled else rows[part]
        own = np.arange(seen.size)[part] if self.sampled else np.arange(seen.size)
        query = query_role(source)
        first = Texts(source, [(query, source.role(query).take(seen))])
        second = Texts(source, [(role, source.role(role).take(seen)) for role in candidate_roles(source)])
        lists = self._candidates(first, second, seen, own, seed)
        counts = np.array([mine.size for mine in lists], np.int64)
        if (counts == 0).any():
            row = int(seen[own[int((counts == 0).argmax())]])
            raise DataError(f"data set '{source.name}', row {row}: the query has no document to score")
        i, j = np.repeat(own, counts), np.concatenate(lists)
        text_id = mixed(first.text_ids()[i]) ^ mixed(second.text_ids()[j], 1)
        column = TextColumn(self.join(first, i, second, j), torch.from_numpy(text_id.view(np.int64)), torch.from_numpy(counts))
        local = np.array(seen[own], np.int64)
        return Batch({PAIR: column}, source.targets(local), torch.from_numpy(local), source.name)

    def _candidates(self, first: Texts, second: Texts, seen: np.ndarray, own: np.ndarray, seed: int) -> list[np.ndarray]:
        """Places in `second` of the candidates of each of the rows `own`."""
        order, counts = by_row(second, seen.size)
        starts = offsets_of(counts)
        lists = [order[starts[row] : starts[row + 1]] for row in own]
        if not self.sampled:
            return lists
        owner = np.empty_like(order)
        owner[order] = np.repeat(np.arange(seen.size), counts)
        draw = Draw(second.text_ids(), first.text_ids(), owner, seed)
        return [np.concatenate([mine, draw.negatives(row, int(seen[row]), self.sampled)]) for row, mine in zip(own, lists, strict=True)]

    def row_tokens(self, source: PreparedSource) -> np.ndarray:
        """(rows,) int64: tokens of all pairs of each row; for sampled negatives those of the longest candidates that could come."""
        queries = source.lengths(query_role(source))
        total = np.zeros(len(source), np.int64)
        longest = 0
        for role in candidate_roles(source):
            counts, lengths = source.counts(role), source.lengths(role)
            running = offsets_of(self.join.length(np.repeat(queries, counts), lengths))
            ends = offsets_of(counts)
            total += running[ends[1:]] - running[ends[:-1]]
            longest = max(longest, int(lengths.max(initial=0)))
        if self.sampled:
            total += min(self.sampled, len(source)) * self.join.length(queries, np.full_like(queries, longest))
        return total

    def candidates_per_row(self, source: PreparedSource) -> float:
        """Mean number of candidates of a row, sampled ones left out."""
        return float(sum(source.counts(role).mean() for role in candidate_roles(source)))


@dataclass(frozen=True, slots=True)
class Draw:
    """Candidates of a global batch as negatives of other rows. text (P,), owner (P,): text id and row of each candidate; query (B,)."""

    text: np.ndarray
    query: np.ndarray
    owner: np.ndarray
    seed: int

    def negatives(self, row: int, number: int, count: int) -> np.ndarray:
        """At most `count` places of candidates for a row of the batch, whose number in the data is `number`."""
        related = self.query[self.owner] == self.query[row]
        allowed = ~related & ~np.isin(self.text, self.text[related])
        keys = mixed(self.text, self.seed, number)
        order = np.argsort(keys, kind="stable")
        order = order[allowed[order]]
        _, fresh = np.unique(self.text[order], return_index=True)  # each text once
        return order[np.sort(fresh)][:count]


def mixed(values: np.ndarray, *seeds: int) -> np.ndarray:
    """uint64 hash of each value with the seeds (splitmix64)."""
    with np.errstate(over="ignore"):
        state = values.astype(np.int64).view(np.uint64)
        for seed in (*seeds, 0):
            state = (state ^ np.uint64(seed & 0xFFFFFFFFFFFFFFFF)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state ^= state >> np.uint64(31)
    return state


def query_role(source: PreparedSource) -> str:
    """The role of the text that stands first in each pair."""
    found = [role for role in source.roles if role in QUERY_ROLES]
    if len(found) != 1 or len(source.roles) < 2:
        raise DataError(
            f"data set '{source.name}' has the roles {', '.join(source.roles)}: a cross-encoder scores pairs, so each row needs an anchor or "
            "a query, and at least one other text"
        )
    return found[0]


def candidate_roles(source: PreparedSource) -> tuple[str, ...]:
    """The roles of the texts that are scored for the query, in order."""
    first = query_role(source)
    return tuple(role for role in source.roles if role != first)


def by_row(texts: Texts, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(places of the texts, row after row and within a row role after role; number of texts of each row)."""
    counts = [role.counts() for _, role in texts.roles]
    row = np.concatenate([np.repeat(np.arange(num_rows), count) for count in counts])
    return np.argsort(row, kind="stable"), np.sum(counts, axis=0)
