from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stpipe.config.errors import ConfigError, DataError
from stpipe.data.samplers import GroupByLabelSampler
from tests.data.fake import Ids

SAMPLER = GroupByLabelSampler()


def labelled(labels: list[int]) -> Ids:
    return Ids({"anchor": list(range(len(labels)))}, labels)


@settings(max_examples=300, deadline=None)
@example(counts=[3, 4], size=6, epoch=0, drop_last=False)  # one triple, two pairs: no batch has two labels as dealt
@example(counts=[5, 3, 3], size=6, epoch=0, drop_last=False)  # as many batches whatever the order of the triples
@given(
    counts=st.lists(st.integers(1, 14), min_size=2, max_size=12),
    size=st.integers(2, 10).map(lambda n: 2 * n),
    epoch=st.integers(0, 3),
    drop_last=st.booleans(),
)
def test_every_label_of_a_batch_has_a_partner_and_a_rival(counts: list[int], size: int, epoch: int, drop_last: bool) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    source = labelled(labels.tolist())
    try:
        batches = SAMPLER.batches(source, batch_size=size, seed=3, epoch=epoch, drop_last=drop_last)
    except DataError:
        assert drop_last or sum(c > 1 for c in counts) < 2
        return
    used = np.concatenate(batches)
    assert np.unique(used).size == used.size
    for batch in batches:
        kinds, sizes = np.unique(labels[batch], return_counts=True)
        assert kinds.size >= 2 and sizes.min() >= 2 and batch.size <= size
    assert len(batches) == len(SAMPLER.batches(source, batch_size=size, seed=9, epoch=epoch + 1, drop_last=drop_last))


@settings(max_examples=200, deadline=None)
@example(counts=[1] * 9 + [5, 5, 5], size=6)  # a batch of one label and one of two can trade pairs
@given(counts=st.lists(st.integers(1, 9), min_size=12, max_size=40), size=st.sampled_from([6, 8, 16]))
def test_only_single_rows_or_one_group_are_left_out_when_no_label_dominates(counts: list[int], size: int) -> None:
    source = labelled(np.repeat(np.arange(len(counts)), counts).tolist())
    if sum(c > 1 for c in counts) < 2 or max(counts) > sum(c for c in counts if c > 1) / 3:
        return
    used = np.concatenate(SAMPLER.batches(source, batch_size=size, seed=0, epoch=0))
    assert sum(c for c in counts if c > 1) - used.size in (0, 2, 3), "three threes in batches of six leave one three over"


def test_a_dominant_label_is_spread_and_its_rest_left_out() -> None:
    labels = [0] * 100 + [1] * 4 + [2] * 4
    batches = SAMPLER.batches(labelled(labels), batch_size=8, seed=0, epoch=0)
    assert len(batches) == 4
    used = np.concatenate(batches)
    assert {1: 4, 2: 4}.items() <= dict(
        zip(*(a.tolist() for a in np.unique(np.array(labels)[used], return_counts=True)), strict=True)
    ).items()


def test_epochs_differ_and_repeat() -> None:
    source = labelled((np.arange(200) % 10).tolist())

    def order(epoch: int) -> bytes:
        return np.concatenate(SAMPLER.batches(source, batch_size=16, seed=1, epoch=epoch)).tobytes()

    assert order(0) == order(0) != order(1)


@pytest.mark.parametrize("size", [2, 5])
def test_batch_size_must_hold_two_pairs(size: int) -> None:
    with pytest.raises(ConfigError, match="even number of at least 4"):
        SAMPLER.batches(labelled([0, 0, 1, 1]), batch_size=size, seed=0, epoch=0)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 0, 0]])
def test_data_that_cannot_be_grouped_is_an_error(labels: list[int]) -> None:
    with pytest.raises(DataError, match="at least two labels with two rows"):
        SAMPLER.batches(labelled(labels), batch_size=4, seed=0, epoch=0)


def test_data_without_classes_is_an_error() -> None:
    with pytest.raises(DataError, match="no classes"):
        SAMPLER.batches(Ids({"anchor": [1, 2]}), batch_size=4, seed=0, epoch=0)
