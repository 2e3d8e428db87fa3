from __future__ import annotations

import json

import pytest
import torch

from stpipe.engine.meter import Meter


def feed(meter: Meter, value: float) -> None:
    meter.add({"loss": torch.tensor(value), **({"rare": torch.tensor(2 * value)} if value > 0.4 else {})})
    meter.count(rows=8, tokens=int(100 * value), computed_tokens=120 * value, wait=0.001)


def test_a_window_that_is_cut_gives_the_means_of_one_that_is_not() -> None:
    """Bit for bit: sums go through JSON as float32."""
    whole, first = Meter(), Meter()
    values = [0.1, 0.7, 1 / 3, 0.9, 0.12345678]
    for value in values:
        feed(whole, value)
    for value in values[:3]:
        feed(first, value)
    state = json.loads(json.dumps(first.state_dict()))
    again = Meter()
    again.load_state_dict(state, device=torch.device("cpu"))
    for value in values[3:]:
        feed(again, value)
    found, expected = again.read(), whole.read()
    assert expected["loss"] > 0.1 and expected["rare"] == pytest.approx(1.6)
    assert [found[name] for name in ("loss", "rare", "padding_share")] == [expected[name] for name in ("loss", "rare", "padding_share")]
    assert found["samples_per_second"] > 0


def test_an_empty_window() -> None:
    meter = Meter()
    meter.load_state_dict(Meter().state_dict(), device=torch.device("cpu"))
    assert meter.read() == {}
