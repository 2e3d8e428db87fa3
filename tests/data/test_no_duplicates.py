from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.data.samplers import NoDuplicatesSampler, RandomSampler
from tests.data.fake import Ids

SAMPLER = NoDuplicatesSampler()


def clashes(source: Ids, batch: np.ndarray) -> bool:
    seen: set[int] = set()
    for row in batch.tolist():
        mine = {t for c, v in source.columns.items() for t in (v[row] if c in source.ragged else [v[row]])}
        if mine & seen:
            return True
        seen |= mine
    return False


def most_rows(source: Ids, num_batches: int, size: int) -> int:
    """Brute force: most rows that can be put into `num_batches` batches of at most `size` rows without a clash."""
    texts = [frozenset(v[row] for v in source.columns.values()) for row in range(len(source))]
    best = 0

    def place(row: int, batches: list[list[frozenset[int]]], placed: int) -> None:
        nonlocal best
        if placed + len(texts) - row <= best:
            return
        if row == len(texts):
            best = placed
            return
        tried_empty = False
        for batch in batches:
            if (not batch and tried_empty) or len(batch) == size or any(texts[row] & other for other in batch):
                continue
            tried_empty = tried_empty or not batch
            batch.append(texts[row])
            place(row + 1, batches, placed + 1)
            batch.pop()
        place(row + 1, batches, placed)

    place(0, [[] for _ in range(num_batches)], 0)
    return best


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 12), st.integers(10, 22)), min_size=1, max_size=60),
    size=st.integers(1, 9),
    epoch=st.integers(0, 3),
    drop_last=st.booleans(),
)
def test_no_batch_holds_a_text_twice(rows: list[tuple[int, int]], size: int, epoch: int, drop_last: bool) -> None:
    source = Ids({"anchor": [a for a, _ in rows], "positive": [b for _, b in rows]})
    batches = SAMPLER.batches(source, batch_size=size, seed=7, epoch=epoch, drop_last=drop_last)
    assert len(batches) == (len(rows) // size if drop_last else -(-len(rows) // size))
    used = np.concatenate([*batches, np.zeros(0, np.int64)])
    assert np.unique(used).size == used.size
    assert all(b.size <= size for b in batches)
    assert not any(clashes(source, b) for b in batches)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=50), st.integers(1, 8))
def test_one_repeated_column_loses_only_what_cannot_be_placed(anchors: list[int], size: int) -> None:
    source = Ids({"anchor": anchors, "positive": list(range(100, 100 + len(anchors)))})
    batches = SAMPLER.batches(source, batch_size=size, seed=1, epoch=0)
    limit = -(-len(anchors) // size)
    possible = sum(min(int(c), limit) for c in np.unique(anchors, return_counts=True)[1])
    assert sum(b.size for b in batches) == possible


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(10, 15)), min_size=2, max_size=9), st.integers(2, 4))
def test_two_repeated_columns_against_brute_force(rows: list[tuple[int, int]], size: int) -> None:
    source = Ids({"anchor": [a for a, _ in rows], "positive": [b for _, b in rows]})
    batches = SAMPLER.batches(source, batch_size=size, seed=1, epoch=0)
    best = most_rows(source, len(batches), size)
    placed = sum(b.size for b in batches)
    assert placed <= best
    assert placed >= best - 2, "swaps should come close to the best arrangement even of a handful of rows"


def test_every_row_is_used_in_full_batches_when_duplicates_are_rare() -> None:
    random = np.random.default_rng(0)
    source = Ids({"anchor": random.integers(0, 4000, 10_007), "positive": 5000 + random.integers(0, 9000, 10_007)})
    batches = SAMPLER.batches(source, batch_size=64, seed=3, epoch=5)
    assert [b.size for b in batches] == [64] * 156 + [23]
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(10_007))
    assert not any(clashes(source, b) for b in batches)


def test_texts_count_across_roles_and_lists() -> None:
    source = Ids({"query": [1, 2, 3, 4], "documents": [[9], [1, 8], [7, 6], [5, 5]]}, ragged={"documents"})
    for epoch in range(20):
        batches = SAMPLER.batches(source, batch_size=2, seed=0, epoch=epoch)
        assert sorted(b.size for b in batches) == [2, 2]
        assert not any(clashes(source, b) for b in batches)


def test_a_text_within_one_row_is_no_clash() -> None:
    source = Ids({"anchor": [1, 2, 3], "positive": [1, 2, 3]})
    assert [b.size for b in SAMPLER.batches(source, batch_size=3, seed=0, epoch=0)] == [3]


def test_surplus_rows_take_turns_over_epochs() -> None:
    source = Ids({"anchor": [1] * 30 + list(range(2, 12)), "positive": list(range(100, 140))})
    used: set[int] = set()
    for epoch in range(40):
        batches = SAMPLER.batches(source, batch_size=8, seed=0, epoch=epoch)
        assert len(batches) == 5
        assert sum(b.size for b in batches) == 15
        used.update(np.concatenate(batches).tolist())
    assert used == set(range(40))


def test_drop_last_uses_the_rows_that_sit_out_to_fill_batches() -> None:
    source = Ids({"anchor": [1, 1, 1, 1, *range(2, 13)], "positive": list(range(100, 115))})
    for epoch in range(20):
        batches = SAMPLER.batches(source, batch_size=4, seed=0, epoch=epoch, drop_last=True)
        assert [b.size for b in batches] == [4, 4, 4]
        assert not any(clashes(source, b) for b in batches)


@pytest.mark.parametrize("sampler", [SAMPLER, RandomSampler()])
@pytest.mark.parametrize("repeats", [1, 3])
def test_order_depends_on_seed_and_epoch_alone(sampler: RandomSampler | NoDuplicatesSampler, repeats: int) -> None:
    source = Ids({"anchor": [i // repeats for i in range(300)], "positive": list(range(1000, 1300))})

    def order(seed: int, epoch: int) -> bytes:
        return np.concatenate(sampler.batches(source, batch_size=16, seed=seed, epoch=epoch)).tobytes()

    assert order(1, 4) == order(1, 4)
    different = [order(1, e) for e in range(5)] + [order(2, 0)]
    assert len(set(different)) == len(different)


def test_rows_meet_others_in_each_epoch() -> None:
    """Dealing must not put neighbours together again and again: over epochs a row meets about as many others as by chance."""
    source = Ids({"anchor": [i // 4 for i in range(400)], "positive": list(range(1000, 1400))})
    met: set[int] = set()
    for epoch in range(30):
        for batch in SAMPLER.batches(source, batch_size=20, seed=0, epoch=epoch):
            if 0 in batch:
                met.update(batch.tolist())
    assert len(met) > 0.6 * (1 - (1 - 19 / 399) ** 30) * 396


def test_rows_of_one_text_are_not_in_neighbouring_batches() -> None:
    source = Ids({"anchor": [i // 4 for i in range(4000)], "positive": list(range(10_000, 14_000))})
    batches = SAMPLER.batches(source, batch_size=20, seed=0, epoch=0)
    place = np.empty(4000, np.int64)
    for number, batch in enumerate(batches):
        place[batch] = number
    gaps = [b - a for group in place.reshape(-1, 4) for a, b in pairwise(sorted(group))]
    assert np.mean(np.array(gaps) == 1) < 0.1
