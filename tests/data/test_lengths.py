"""Histograms of the lengths of texts, which the report draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from stpipe.data.checks import LENGTH_BINS, length_histogram


@pytest.mark.parametrize("lengths", [[3, 1, 2, 2], list(range(1, 400)), [5] * 10, [1] * 990 + [5000] * 5, [0, 0]])
def test_lengths_are_counted_in_whole_bins_with_the_rest_in_the_last(lengths: list[int]) -> None:
    found = length_histogram(np.array(lengths))
    edges, counts = found["edges"], found["counts"]
    assert sum(counts) == len(lengths) and len(counts) <= LENGTH_BINS and len(edges) == len(counts) + 1
    assert edges[0] == 0 and len({b - a for a, b in itertools.pairwise(edges)}) == 1
    assert edges[-1] >= np.percentile(lengths, 99)
    for i, count in enumerate(counts[:-1]):
        assert count == sum(edges[i] <= n < edges[i + 1] for n in lengths)


def test_no_texts_have_no_histogram() -> None:
    assert length_histogram(np.array([], dtype=np.int64)) == {}
