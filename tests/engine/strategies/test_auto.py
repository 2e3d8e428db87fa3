"""`auto`: the fastest strategy that fits, with its reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stpipe.engine.strategies import Auto, Micro, Plain, Recompute, Situation, TwoPass, in_words
from stpipe.engine.train_module import TrainModule
from stpipe.losses import MultipleNegativesRankingLoss
from tests.engine.strategies.test_two_pass import CTX
from tests.engine.tiny import assert_same_gradients, random_batch, started, step_gradients, tiny_encoder

GB = 1 << 30


def measured() -> float:
    raise AssertionError("nothing had to be measured")


def situation(
    *,
    coupling: str = "anchor",
    need: Callable[[], float] = measured,
    room: Callable[[], float] = measured,
    largest: Callable[[float], float] = lambda x: x,
    earlier: str | None = None,
) -> Situation:
    return Situation(random_batch(9), coupling, "packed", "cpu", need, room, largest, earlier)


def test_a_batch_of_one_micro_batch_is_plain_without_measuring() -> None:
    choice = Auto(token_budget=1000).choose(situation())
    assert choice.strategy == Plain(token_budget=1000)
    assert choice.reason.startswith("the longest batch is one micro-batch")


@pytest.mark.parametrize(
    ("need", "coupling", "expected"),
    [
        (3 * GB, "row", Plain),
        (3 * GB, "batch", Plain),
        (5 * GB, "row", Micro),
        (5 * GB, "anchor", Recompute),
        (5 * GB, "batch", Recompute),
        (float("inf"), "anchor", Recompute),
    ],
)
def test_what_fits_decides(need: float, coupling: str, expected: type) -> None:
    choice = Auto(token_budget=40, score_chunk=7).choose(situation(coupling=coupling, need=lambda: need, room=lambda: 4.0 * GB))
    assert choice.strategy == expected(token_budget=40, score_chunk=7)
    assert "4.0 GB may be used" in choice.reason and "tokens" in choice.reason


def test_processes_choose_what_fits_on_all() -> None:
    """Here it fits; the process with the least room says no."""
    choice = Auto(token_budget=40).choose(situation(need=lambda: 1.0, room=lambda: 2.0, largest=lambda x: max(x, 1.0)))
    assert choice.strategy.name == "recompute"


@pytest.mark.parametrize("name", ["plain", "micro", "recompute"])
def test_a_continued_run_keeps_its_choice(name: str) -> None:
    choice = Auto(token_budget=40).choose(situation(earlier=name))
    assert choice.strategy.name == name and choice.strategy.token_budget == 40
    assert "when the run began" in choice.reason


@pytest.mark.parametrize("strategy", [Plain(), Recompute(), Micro(), TwoPass()], ids=lambda s: s.name)
def test_other_strategies_are_what_was_configured(strategy: Plain) -> None:
    choice = strategy.choose(situation(earlier="plain"))
    assert (choice.strategy, choice.reason) == (strategy, "as configured")


def test_before_it_has_chosen_it_is_safe_for_every_loss() -> None:
    found = []
    for strategy in (Plain(token_budget=32), Auto(token_budget=32)):
        module = TrainModule(tiny_encoder(), {"default": MultipleNegativesRankingLoss()}, strategy)
        found.append(step_gradients(started(module), [random_batch(9)], CTX))
    assert found[0][0] == found[1][0]
    assert_same_gradients(found[1][1], found[0][1])


@pytest.mark.parametrize(
    ("number", "text"), [(512, "512 bytes"), (1536, "1.5 KB"), (3 * 1024**2, "3.0 MB"), (5000 * GB, "5,000.0 GB"), (float("inf"), "inf GB")]
)
def test_bytes_in_words(number: float, text: str) -> None:
    assert in_words(number) == text
