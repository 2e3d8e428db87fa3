"""A run that goes on at its millionth step starts as fast as a new one, whichever sampler it has: no batch before is made again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from stpipe.data.samplers import GroupByLabelSampler, NoDuplicatesSampler, RandomSampler
from stpipe.data.stream import BatchStream

ROWS, MILLION, SECONDS = 20_000, 1_000_000, 5.0


@dataclass(frozen=True)
class Rows:
    """Rows of two texts, of which many occur in several rows, with a class."""

    name: str
    count: int = ROWS
    roles: tuple[str, ...] = ("anchor", "positive")

    def __len__(self) -> int:
        return self.count

    def text_ids(self, role: str) -> np.ndarray:
        numbers = np.arange(self.count, dtype=np.int64)
        return numbers if role == "anchor" else ROWS + numbers // 3

    def counts(self, role: str) -> np.ndarray:
        return np.ones(self.count, np.int64)

    def labels(self) -> np.ndarray:
        return np.arange(self.count, dtype=np.int64) % 97


@dataclass
class Counted:
    """A sampler, and the passes that were asked of it."""

    sampler: Any
    passes: list[int] = field(default_factory=list)

    @property
    def mixing(self) -> str:
        return str(self.sampler.mixing)

    def batches(self, source: Any, *, epoch: int, **keys: Any) -> list[np.ndarray]:
        self.passes.append(epoch)
        found: list[np.ndarray] = self.sampler.batches(source, epoch=epoch, **keys)
        return found


def stream(sampler: Any, *, sources: int) -> tuple[BatchStream, Counted]:
    counted = Counted(sampler)
    data: Any = {f"s{i}": Rows(f"s{i}", ROWS // (i + 1)) for i in range(sources)}
    return BatchStream(data, sampler=counted, batch_size=32, seed=3), counted


SAMPLERS = {"random": RandomSampler, "no_duplicates": NoDuplicatesSampler, "group_by_label": GroupByLabelSampler}


@pytest.mark.parametrize(("mixing", "sources"), [("proportional", 1), ("proportional", 3), ("round_robin", 3), ("weighted", 3)])
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_the_millionth_batch_needs_no_batch_before_it(name: str, mixing: Any, sources: int) -> None:
    sampler = SAMPLERS[name](mixing=mixing)
    began = time.perf_counter()
    fresh, counted = stream(sampler, sources=sources)
    made = len(counted.passes)
    where, rows = fresh.rows(MILLION)
    seconds = time.perf_counter() - began
    assert made == sources, "one pass over each, to know its length"
    assert len(counted.passes) == made + 1, "and the pass that the batch is in"
    assert counted.passes[-1] > 100
    assert seconds < SECONDS
    assert rows.size and np.unique(rows).size == rows.size
    arrived, _ = stream(sampler, sources=sources)
    for index in range(MILLION - 3, MILLION + 1):
        found = arrived.rows(index)
    assert found[0] == where and np.array_equal(found[1], rows)
