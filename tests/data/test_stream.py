from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from stpipe.config.errors import DataError
from stpipe.config.sections import SourceSection
from stpipe.data.mixture import batches_of_epoch, order_of_epoch
from stpipe.data.prepared import PreparedSource
from stpipe.data.samplers import NoDuplicatesSampler, RandomSampler
from stpipe.data.stream import BatchStream
from tests.data.conftest import pairs, sentence


@pytest.fixture
def sources(run_prepare: Any, write_jsonl: Callable[..., str]) -> dict[str, PreparedSource]:
    several = {n: SourceSection(train=write_jsonl(pairs(c)[-c:], f"{n}.jsonl")) for n, c in {"a": 50, "b": 23, "c": 8}.items()}
    return dict(run_prepare(sources=several).train)


def stream(sources: dict[str, PreparedSource], mixing: Any = "proportional", **keys: Any) -> BatchStream:
    return BatchStream(sources, **{"sampler": RandomSampler(mixing=mixing), "batch_size": 4, "seed": 5, **keys})


def used(s: BatchStream, first: int, last: int) -> dict[str, Counter[int]]:
    found: dict[str, Counter[int]] = {name: Counter() for name in s.sources}
    for i in range(first, last):
        name, rows = s.rows(i)
        found[name].update(rows.tolist())
    return found


def test_each_epoch_uses_every_row_once_in_another_order(sources: dict[str, PreparedSource]) -> None:
    s = stream(sources)
    assert len(s) == 13 + 6 + 2 and s.rows_per_epoch == 81
    for epoch in range(3):
        for name, counts in used(s, epoch * len(s), (epoch + 1) * len(s)).items():
            assert counts == Counter(range(len(sources[name])))
    orders = {tuple(s.rows(e * len(s) + i)[0] for i in range(len(s))) for e in range(4)}
    assert len(orders) == 4


def test_any_batch_can_be_asked_for_at_once(sources: dict[str, PreparedSource]) -> None:
    in_order = [stream(sources).rows(i) for i in range(60)]
    s = stream(sources)
    for i in (59, 3, 40, 0, 22):
        name, rows = s.rows(i)
        assert name == in_order[i][0] and np.array_equal(rows, in_order[i][1])
    again = pickle.loads(pickle.dumps(s))
    assert np.array_equal(again.rows(41)[1], in_order[41][1])
    with pytest.raises(IndexError):
        s.rows(-1)


def test_batches_hold_the_rows_that_they_say(sources: dict[str, PreparedSource]) -> None:
    s = stream(sources)
    for i in range(len(s)):
        name, rows = s.rows(i)
        batch = s[i]
        assert batch.source == name and batch.row.tolist() == rows.tolist()
        expected = sources[name].batch(rows)
        assert torch.equal(batch.columns["positive"].tokens.ids, expected.columns["positive"].tokens.ids)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("sampler", [RandomSampler(), NoDuplicatesSampler()])
def test_ranks_share_each_batch(world: int, sampler: Any, sources: dict[str, PreparedSource]) -> None:
    ranks = [stream(sources, sampler=sampler, batch_size=2, rank=r, world_size=world) for r in range(world)]
    assert len({len(r) for r in ranks}) == 1
    total = 0
    for i in range(len(ranks[0])):
        parts = [r.local_rows(i) for r in ranks]
        assert len({name for name, _ in parts}) == 1
        sizes = [rows.size for _, rows in parts]
        assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1 and max(sizes) <= 2
        assert np.array_equal(np.concatenate([rows for _, rows in parts]), ranks[0].rows(i)[1])
        total += sum(sizes)
    assert total > 81 - 3 * world


def test_one_process_with_the_global_batch_sees_the_same(sources: dict[str, PreparedSource]) -> None:
    one, two = stream(sources, batch_size=4), stream(sources, batch_size=2, rank=1, world_size=2)
    assert len(one) == len(two)
    assert all(np.array_equal(one.rows(i)[1], two.rows(i)[1]) for i in range(2 * len(one)))


def test_round_robin_takes_turns_and_goes_on_next_epoch(sources: dict[str, PreparedSource]) -> None:
    s = stream(sources, "round_robin")
    assert len(s) == 6
    assert [s.rows(i)[0] for i in range(9)] == ["a", "b", "c"] * 3
    counts = used(s, 0, 7 * len(s))
    assert counts["a"].total() >= 50 and set(counts["a"]) == set(range(50)), "the larger data set is not cut to its first rows"


def test_weights_decide_and_no_row_comes_twice_before_all_came_once(sources: dict[str, PreparedSource]) -> None:
    s = stream(sources, "weighted", weights={"a": 1.0, "b": 2.0, "c": 7.0}, batch_size={"a": 4, "b": 4, "c": 2})
    names = Counter(s.rows(i)[0] for i in range(len(s)))
    assert all(abs(names[n] / len(s) - w / 10) <= 1 / len(s) for n, w in {"a": 1, "b": 2, "c": 7}.items())
    for name, count in used(s, 0, 5 * len(s)).items():
        times = [count[row] for row in range(len(sources[name]))]
        assert max(times) - min(times) <= 1


def test_batch_sizes_of_their_own(sources: dict[str, PreparedSource]) -> None:
    s = stream(sources, batch_size={"a": 10, "b": 5, "c": 8})
    assert s.batches_per_epoch == {"a": 5, "b": 5, "c": 1}
    assert {(n, r.size) for n, r in (s.rows(i) for i in range(len(s)))} == {("a", 10), ("b", 5), ("b", 3), ("c", 8)}
    assert stream(sources, batch_size={"a": 10, "b": 5, "c": 8}, drop_last=True).batches_per_epoch["b"] == 4


def test_too_few_rows_for_a_batch_are_an_error(sources: dict[str, PreparedSource]) -> None:
    with pytest.raises(DataError, match="data set 'c' has 8 rows: no batch of 9 rows"):
        stream(sources, batch_size=9, drop_last=True)
    with pytest.raises(DataError, match="data set 'c' has 8 rows"):
        stream(sources, batch_size=1, world_size=9)


def test_the_worst_case_is_not_exceeded(run_prepare: Any, write_jsonl: Callable[..., str]) -> None:
    rows = [{"anchor": sentence(i), "positive": " ".join([sentence(i)] * (1 + i % 7))} for i in range(60)]
    others = [{"query": "q", "documents": ["a long text " * 9] * (i % 3 + 1), "label": [1.0] * (i % 3 + 1)} for i in range(12)]
    several = {"a": SourceSection(train=write_jsonl(rows)), "b": SourceSection(train=write_jsonl(others, "b.jsonl"))}
    found = dict(run_prepare(sources=several, limit=64).train)
    s = stream(found)
    worst = s.worst_case()
    assert len(worst) == 4
    assert worst.num_tokens >= max(s[i].num_tokens for i in range(3 * len(s)))
    tokens = found["b"].row_tokens()
    assert tokens.tolist() == [found["b"].batch(np.array([i])).num_tokens for i in range(12)]


def test_workers_give_the_same_batches(sources: dict[str, PreparedSource]) -> None:
    s = stream(sources)
    indices = list(range(30, 50))
    loader = DataLoader(s, batch_size=None, sampler=indices, num_workers=1, multiprocessing_context="fork")
    for i, batch in zip(indices, loader, strict=True):
        assert torch.equal(batch.row, s[i].row)
        assert torch.equal(batch.columns["anchor"].tokens.ids, s[i].columns["anchor"].tokens.ids)


@dataclass(frozen=True)
class EveryOther:
    """A user's own sampler."""

    mixing: str = "proportional"

    def batches(self, source: Any, *, batch_size: int, seed: int, epoch: int, drop_last: bool) -> list[np.ndarray]:
        return np.array_split(np.arange(0, len(source), 2), 3)


def test_a_sampler_needs_only_the_one_method(sources: dict[str, PreparedSource]) -> None:
    s = BatchStream({"a": sources["a"]}, sampler=EveryOther(), batch_size=4, seed=0)
    assert len(s) == 3 and set(used(s, 0, 3)["a"]) == set(range(0, 50, 2))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 400), st.floats(0.01, 50)), min_size=1, max_size=6),
    st.sampled_from(["proportional", "round_robin", "weighted"]),
    st.integers(0, 5),
)
def test_the_mixture_is_exact(parts: list[tuple[int, float]], mixing: str, epoch: int) -> None:
    sizes, weights = [p[0] for p in parts], [p[1] for p in parts]
    counts = batches_of_epoch(mixing, sizes, weights)
    which, ordinal = order_of_epoch(mixing, counts, seed=1, epoch=epoch)
    assert which.size == ordinal.size == sum(counts)
    for number, count in enumerate(counts):
        assert sorted(ordinal[which == number].tolist()) == list(range(count))
    if mixing == "weighted":
        assert sum(counts) == sum(sizes)
        assert all(abs(c - w / sum(weights) * sum(sizes)) < 1 for c, w in zip(counts, weights, strict=True))
