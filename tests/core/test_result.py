"""Sums and counts of parts of a batch as those of the whole."""

from __future__ import annotations

import pytest
import torch

from stpipe.core.result import LossOutput


def part(total: float, count: float, term: float, metric: float) -> LossOutput:
    return LossOutput(torch.tensor(total), torch.tensor(count), {"a": torch.tensor(term)}, {"m": torch.tensor(metric)})


def test_merge_weighs_terms_by_count_and_metrics_by_rows() -> None:
    found = LossOutput.merge([part(6.0, 3.0, 2.0, 10.0), part(4.0, 1.0, 4.0, 40.0)], [1, 2])
    assert (float(found.sum), float(found.count)) == (10.0, 4.0)
    assert float(found.terms["a"]) == pytest.approx(2.5) and float(found.metrics["m"]) == pytest.approx(30.0)


def test_merge_of_parts_that_count_nothing() -> None:
    found = LossOutput.merge([part(0.0, 0.0, 0.0, 1.0), part(0.0, 0.0, 0.0, 3.0)], [1, 1])
    assert (float(found.sum), float(found.count), float(found.terms["a"]), float(found.metrics["m"])) == (0.0, 0.0, 0.0, 2.0)


def test_scaled_keeps_the_mean_and_nothing_counts_nothing() -> None:
    assert float(part(6.0, 3.0, 1.0, 1.0).scaled(2.0).mean) == 2.0
    nothing = part(6.0, 3.0, 1.0, 1.0).scaled(0.0)
    assert (float(nothing.sum), float(nothing.count)) == (0.0, 0.0)


def test_detach_cuts_the_graph() -> None:
    x = torch.ones((), requires_grad=True)
    out = LossOutput(x * 2, torch.ones(()))
    assert out.sum.requires_grad and not out.detach().sum.requires_grad and float(out.detach().sum) == 2.0
