"""Batches in which every label occurs at least twice, beside at least one other label.

The rows of each label are cut into pairs; where their number is odd, three of them are a triple. Triples in twos take three slots
of two rows, pairs take one. The slots are dealt like cards, label after label from the most frequent one on, so that labels spread
over all batches and batches come out about equally large.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from stpipe.config.errors import ConfigError, DataError, Problem


class LabelledSource(Protocol):
    """What is read of a data set."""

    @property
    def name(self) -> str: ...

    def labels(self) -> np.ndarray | None: ...


def grouped_batches(source: LabelledSource, random: np.random.Generator, *, batch_size: int, drop_last: bool) -> list[np.ndarray]:
    """Row numbers of each batch of one epoch."""
    labels = source.labels()
    if labels is None or labels.ndim != 1 or labels.dtype.kind != "i":
        raise DataError(f"sampler group_by_label: data set '{source.name}' has no classes; expected a label column of integers or names.")
    if batch_size < 4 or batch_size % 2:
        raise ConfigError(
            Problem("trainer.batch_size", f"found {batch_size} rows a batch, expected an even number of at least 4 for group_by_label")
        )
    pairs, triples = _units(labels, random, with_triples=batch_size >= 6)
    slots = batch_size // 2
    num_batches = _num_batches(len(pairs), len(triples), slots, drop_last)
    pairs = _by_frequency(pairs, labels, random, keep=num_batches * slots - _triple_slots(len(triples)))
    batches = _mend(_assemble(pairs, triples, slots, num_batches), labels, rows=batch_size)
    if not batches:
        raise DataError(
            f"sampler group_by_label: data set '{source.name}' with {batch_size} rows a batch gives no batch; expected at least two labels "
            "with two rows each. Use sampler=random, or a smaller batch."
        )
    order = random.permutation(len(batches))
    return [random.permutation(np.concatenate(batches[i])) for i in order]


def _units(labels: np.ndarray, random: np.random.Generator, *, with_triples: bool) -> tuple[np.ndarray, np.ndarray]:
    """(pairs (P, 2), triples (T, 3)): rows of one label each, in random order; at most one triple a label."""
    order = random.permutation(labels.size)
    order = order[np.argsort(labels[order], kind="stable")]
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    inside = np.arange(labels.size) - np.repeat(starts, sizes)
    size = np.repeat(sizes, sizes)
    odd = (size % 2 == 1) & (size > 1)
    in_triple = odd & (inside < 3) if with_triples else np.zeros(labels.size, bool)
    left_out = (size == 1) | (odd & (inside == 0) & (not with_triples))
    pairs = order[~in_triple & ~left_out].reshape(-1, 2)
    return random.permutation(pairs), random.permutation(order[in_triple].reshape(-1, 3))


def _triple_slots(triples: int) -> int:
    """Slots of two rows that triples take: three for two of them, two for a last one."""
    return triples // 2 * 3 + triples % 2 * 2


def _num_batches(pairs: int, triples: int, slots: int, drop_last: bool) -> int:
    """Batches that hold all units; with drop_last only those that can be filled (never fewer than the triples need)."""
    total = pairs + _triple_slots(triples)
    for_triples = -(-((triples + 1) // 2) // (slots // 3)) if triples else 0
    return max(total // slots if drop_last else -(-total // slots), for_triples)


def _by_frequency(pairs: np.ndarray, labels: np.ndarray, random: np.random.Generator, *, keep: int) -> np.ndarray:
    """At most `keep` pairs (frequent labels lose theirs first), those of one label side by side, frequent labels first.

    Equally frequent labels come in random order, so that what happens to a label depends on its frequency alone.
    """
    _, label, counts = np.unique(labels[pairs[:, 0]], return_inverse=True, return_counts=True)
    tie = random.permutation(counts.size)
    order = np.lexsort((tie[label], -counts[label]))
    starts = np.concatenate([np.zeros(1, np.int64), np.flatnonzero(np.diff(label[order])) + 1])
    runs = np.diff(np.append(starts, order.size))
    inside = np.arange(order.size) - np.repeat(starts, runs) if order.size else np.zeros(0, np.int64)
    kept = np.sort(np.lexsort((-np.arange(order.size), inside))[:keep])
    return pairs[order[kept]]


def _assemble(pairs: np.ndarray, triples: np.ndarray, slots: int, num_batches: int) -> list[list[np.ndarray]]:
    """Units of each batch. Twos of triples go round the batches first; pairs then fill the least full batches, level by level."""
    batches: list[list[np.ndarray]] = [[] for _ in range(num_batches)]
    level = np.zeros(num_batches, np.int64)
    for start in range(0, len(triples), 2):
        turn = start // 2 % num_batches
        couple = triples[start : start + 2]
        batches[turn] += list(couple)
        level[turn] += 3 if len(couple) == 2 else 2
    free = slots - level
    batch = np.repeat(np.arange(num_batches), free)
    height = np.arange(batch.size) - np.repeat(np.cumsum(free) - free, free) + np.repeat(level, free)
    order = np.lexsort((batch, height))[: len(pairs)]
    for place, pair in zip(batch[order].tolist(), pairs, strict=True):
        batches[place].append(pair)
    return batches


def _mend(batches: list[list[np.ndarray]], labels: np.ndarray, *, rows: int) -> list[list[np.ndarray]]:
    """Batches of one label get rows of another label from another batch; those that cannot are left out.

    For each label the search goes on where its last one ended, so that the work grows with the number of rows only.
    """
    place: dict[int, int] = {}
    for units in batches:
        kinds = _kinds(units, labels)
        if len(kinds) != 1:
            continue
        (own,) = kinds
        start = place.get(own, 0)
        place[own] = len(batches)
        for i in range(start, len(batches)):
            if batches[i] is not units and _trade(units, batches[i], labels, own=own, rows=rows):
                place[own] = i
                break
    return [units for units in batches if len(_kinds(units, labels)) > 1]


def _trade(units: list[np.ndarray], giver: list[np.ndarray], labels: np.ndarray, *, own: int, rows: int) -> bool:
    """Give a batch of one label, `own`, a unit of another one: for one of its own as large, else as one more; False when neither can be.

    A batch that gives keeps two labels (or had one only, and would be left out anyway).
    """
    mine = {unit.size: n for n, unit in enumerate(units)} if len(units) > 1 else {}
    size = sum(unit.size for unit in units)
    for n, unit in enumerate(giver):
        if labels[unit[0]] == own:
            continue
        rest = _kinds([*giver[:n], *giver[n + 1 :]], labels)
        if unit.size in mine and rest - {own}:
            giver[n], units[mine[unit.size]] = units[mine[unit.size]], giver[n]
            return True
        if size + unit.size <= rows and (len(rest) > 1 or rest <= {int(labels[unit[0]])}):
            units.append(giver.pop(n))
            return True
    return False


def _kinds(units: list[np.ndarray], labels: np.ndarray) -> set[int]:
    return {int(labels[unit[0]]) for unit in units}
