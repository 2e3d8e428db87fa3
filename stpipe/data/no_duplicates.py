"""Batches in which no text occurs twice.

Rows that share a text form groups. Rows are dealt to the batches like cards, group after group, so that the rows of one group go to
different batches; that settles the most frequent text of each row at once. What other texts still clash is swapped away, row by row.
Only texts that occur in several rows are looked at, so data without duplicates costs one permutation.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

import numpy as np

from stpipe.data.texts import offsets_of, spread

TRIES = 32


class TextSource(Protocol):
    """What is read of a data set."""

    def __len__(self) -> int: ...

    @property
    def roles(self) -> tuple[str, ...]: ...

    def text_ids(self, role: str) -> np.ndarray: ...

    def counts(self, role: str) -> np.ndarray: ...


class SharedTexts:
    """Texts that occur in more than one row. row (E,), text (E,): row and number of each occurrence, sorted by row, once per row and text;
    offsets (rows + 1,): where the occurrences of each row are; frequency (texts,): rows of each text."""

    def __init__(self, source: TextSource) -> None:
        num_rows = len(source)
        ids = np.concatenate([source.text_ids(r) for r in source.roles])
        rows = np.concatenate([np.repeat(np.arange(num_rows), source.counts(r)) for r in source.roles])
        order = np.argsort(ids)
        often = _same_as_neighbour(ids[order])
        ids, rows = ids[order][often], rows[order][often]
        order = np.lexsort((rows, ids))
        ids, rows = ids[order], rows[order]
        fresh = np.append(True, (ids[1:] != ids[:-1]) | (rows[1:] != rows[:-1]))[: ids.size]
        ids, rows = ids[fresh], rows[fresh]
        starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1])[: ids.size])
        sizes = np.diff(np.append(starts, ids.size))
        shared = np.repeat(sizes > 1, sizes)
        text = np.repeat(np.cumsum(sizes > 1) - 1, sizes)[shared]
        by_row = np.argsort(rows[shared], kind="stable")
        self.num_rows = num_rows
        self.row = rows[shared][by_row]
        self.text = text[by_row]
        self.frequency = sizes[sizes > 1]
        self.offsets = offsets_of(np.bincount(self.row, minlength=num_rows))


def _same_as_neighbour(ids: np.ndarray) -> np.ndarray:
    """(N,) bool: values of a sorted array that occur more than once."""
    equal = np.append(False, ids[1:] == ids[:-1])[: ids.size]
    return equal | np.append(equal[1:], False)[: ids.size]


def spread_duplicates(source: TextSource, random: np.random.Generator, *, batch_size: int, drop_last: bool) -> list[np.ndarray]:
    """Row numbers of each batch of one epoch.

    There are ceil(rows / batch_size) batches (floor with drop_last), all full but the last, which is random among the batches in place
    but not in size. A row that fits nowhere is left out of the epoch and its batch is smaller.
    """
    num_rows = len(source)
    num_batches = num_rows // batch_size if drop_last else -(-num_rows // batch_size)
    if num_batches == 0:
        return []
    shared = SharedTexts(source)
    if shared.row.size == 0:
        order = random.permutation(num_rows)
        return [order[i : i + batch_size] for i in range(0, num_batches * batch_size, batch_size)]
    order, bench = _arrange(shared, random, num_batches, min(num_rows, num_batches * batch_size))
    batch_of = _deal(order.size, num_batches, batch_size, random)
    place = np.full(num_rows, -1, np.int64)
    place[order] = batch_of
    left_out = _Repair(shared, place, bench, random, (num_batches, batch_size)).run()
    place[left_out] = -1
    return _collect(place, random, num_batches)


def _arrange(shared: SharedTexts, random: np.random.Generator, num_batches: int, room: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows to deal with groups side by side, rows that sit this epoch out), both in random order otherwise."""
    order = random.permutation(shared.num_rows)
    surplus = _surplus(shared, order, num_batches)
    bench_first = np.concatenate([order[~surplus[order]], order[surplus[order]]])
    dealt, bench = bench_first[:room], bench_first[room:]
    if room > shared.num_rows - int(surplus.sum()):
        dealt, bench = order[~surplus[order]], order[surplus[order]]
    key = random.random(shared.num_rows)
    group_key = random.random(shared.frequency.size)
    by_frequency = np.argsort(shared.frequency[shared.text], kind="stable")
    key[shared.row[by_frequency]] = group_key[shared.text[by_frequency]]
    return dealt[np.argsort(key[dealt], kind="stable")], bench


def _surplus(shared: SharedTexts, order: np.ndarray, num_batches: int) -> np.ndarray:
    """(rows,) bool: rows beyond the first `num_batches`, in random order, of a text that is in more rows than that."""
    surplus = np.zeros(shared.num_rows, bool)
    crowded = np.flatnonzero(shared.frequency > num_batches)
    if crowded.size:
        rank = np.empty(shared.num_rows, np.int64)
        rank[order] = np.arange(order.size)
        for text in crowded[np.argsort(-shared.frequency[crowded])]:
            rows = shared.row[shared.text == text]
            rows = rows[~surplus[rows]]
            surplus[rows[np.argsort(rank[rows])][num_batches:]] = True
    return surplus


def _deal(count: int, num_batches: int, batch_size: int, random: np.random.Generator) -> np.ndarray:
    """(count,) batch of each of the rows in turn: all batches but one are full, or all are equal when rows are missing."""
    position = np.arange(count)
    missing = num_batches * batch_size - count
    if num_batches == 1 or missing >= batch_size:
        return position % num_batches
    last = batch_size - missing
    first_layers = last * num_batches
    return np.where(position < first_layers, position % num_batches, (position - first_layers) % (num_batches - 1))


def _collect(place: np.ndarray, random: np.random.Generator, num_batches: int) -> list[np.ndarray]:
    """Rows of each batch in random order; the smallest batch comes last, the others in random order."""
    rows = random.permutation(place.size)
    rows = rows[place[rows] >= 0]
    rows = rows[np.argsort(place[rows], kind="stable")]
    sizes = np.bincount(place[rows], minlength=num_batches)
    batches = np.split(rows, np.cumsum(sizes)[:-1])
    order = random.permutation(num_batches)
    order = order[np.argsort(sizes[order] < sizes.max(), kind="stable")]
    return [batches[i] for i in order]


class _Repair:
    """Swaps rows between batches until no batch holds a text twice.

    place (rows,): batch of each row, -1 on the bench; changed in place. shape: number of batches, rows of a full one.
    """

    def __init__(
        self, shared: SharedTexts, place: np.ndarray, bench: np.ndarray, random: np.random.Generator, shape: tuple[int, int]
    ) -> None:
        self.shared = shared
        self.place = place
        self.random = random
        self.num_batches, self.batch_size = shape
        self.held: dict[int, Counter[int]] = {}
        self.dealt = np.flatnonzero(place >= 0)
        self.bench = bench.tolist()
        self.members = np.argsort(place, kind="stable")[bench.size :] if bench.size else np.argsort(place, kind="stable")
        self.sizes = np.bincount(place[self.dealt], minlength=self.num_batches)
        self.bounds = offsets_of(self.sizes)
        self.moved_in: dict[int, list[int]] = {}

    def run(self) -> np.ndarray:
        """Rows that fit nowhere."""
        left_out = [row for row in self._clashing() if not (self._swap_random(row) or self._swap_bench(row) or self._swap_any(row))]
        return np.array(left_out, np.int64)

    def _clashing(self) -> list[int]:
        """Rows that share a text with an earlier row of their batch."""
        shared = self.shared
        batch = self.place[shared.row]
        inside = batch >= 0
        key = (batch[inside] * shared.frequency.size + shared.text[inside]) if inside.any() else np.zeros(0, np.int64)
        order = np.argsort(key, kind="stable")
        again = np.zeros(key.size, bool)
        again[order[1:]] = key[order[1:]] == key[order[:-1]]
        return np.unique(shared.row[inside][again]).tolist()

    def _texts(self, row: int) -> list[int]:
        return self.shared.text[self.shared.offsets[row] : self.shared.offsets[row + 1]].tolist()

    def _counter(self, batch: int) -> Counter[int]:
        """Occurrences of shared texts in a batch; counted on first use, kept up to date after."""
        if batch not in self.held:
            rows = self._rows_of(batch)
            starts = self.shared.offsets[rows]
            self.held[batch] = Counter(self.shared.text[spread(starts, self.shared.offsets[rows + 1] - starts)].tolist())
        return self.held[batch]

    def _rows_of(self, batch: int) -> np.ndarray:
        """Rows now in a batch."""
        rows = np.concatenate([self.members[self.bounds[batch] : self.bounds[batch + 1]], np.array(self.moved_in.get(batch, []), np.int64)])
        return np.unique(rows[self.place[rows] == batch])

    def _fits(self, row: int, batch: int, instead_of: int) -> bool:
        """True when the batch without `instead_of` shares no text with the row."""
        held, gone = self._counter(batch), self._texts(instead_of)
        return all(held[t] - (t in gone) <= 0 for t in self._texts(row))

    def _try(self, row: int, other: int) -> bool:
        mine, theirs = int(self.place[row]), int(self.place[other])
        if mine == theirs or not self._fits(row, theirs, other) or not self._fits(other, mine, row):
            return False
        self._move(row, theirs)
        self._move(other, mine)
        return True

    def _move(self, row: int, batch: int) -> None:
        before = int(self.place[row])
        for index, step in ((before, -1), (batch, 1)):
            counter = self._counter(index)
            for text in self._texts(row):
                counter[text] += step
            self.sizes[index] += step
        self.place[row] = batch
        self.moved_in.setdefault(batch, []).append(row)

    def _resolved(self, row: int) -> bool:
        """True when earlier swaps already took the clash away."""
        held = self._counter(int(self.place[row]))
        return all(held[t] < 2 for t in self._texts(row))

    def _swap_random(self, row: int) -> bool:
        if self._resolved(row):
            return True
        others = self.dealt[self.random.integers(0, self.dealt.size, TRIES)].tolist()
        return any(self._try(row, other) for other in others)

    def _swap_bench(self, row: int) -> bool:
        """Give the place to a row that sits out (there are some only with drop_last)."""
        batch = int(self.place[row])
        for i, other in enumerate(self.bench[:TRIES]):
            if self._fits(other, batch, row):
                counter = self._counter(batch)
                counter.subtract(self._texts(row))
                counter.update(self._texts(other))
                self.place[row], self.place[other] = -1, batch
                self.moved_in.setdefault(batch, []).append(other)
                self.bench[i] = row
                return True
        return False

    def _swap_any(self, row: int) -> bool:
        """Look through all batches for a swap, then for room, at last for a row that gives its place up for another batch's room."""
        texts = self._texts(row)
        free = [b for b in self.random.permutation(self.num_batches).tolist() if not any(self._counter(b)[t] for t in texts)]
        members = {batch: self.random.permutation(self._rows_of(batch)).tolist() for batch in free}
        if any(self._try(row, other) for batch in free for other in members[batch]):
            return True
        roomy = np.flatnonzero(self.sizes < self.batch_size).tolist()
        if (batch := next((b for b in free if self.sizes[b] < self.batch_size), None)) is not None:
            self._move(row, batch)
            return True
        for batch in free:
            for other in members[batch]:
                theirs = self._texts(other)
                target = next((b for b in roomy if b != batch and not any(self._counter(b)[t] for t in theirs)), None)
                if target is not None:
                    self._move(other, target)
                    self._move(row, batch)
                    return True
        self._leave(row)
        return False

    def _leave(self, row: int) -> None:
        """A row that is given up leaves its batch."""
        batch = int(self.place[row])
        self._counter(batch).subtract(self._texts(row))
        self.sizes[batch] -= 1
        self.place[row] = -1
