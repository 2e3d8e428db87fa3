from __future__ import annotations

import pytest

from stpipe.config.sections import TrainerSection
from stpipe.engine.length import RunLength, interval


def test_epochs_and_accumulation_give_steps_and_every_batch_is_used_once() -> None:
    length = RunLength.of(TrainerSection(num_epochs=2, accumulation_steps=4), batches_per_epoch=9)
    assert (length.num_batches, length.num_steps) == (18, 5)
    assert [length.batches_of(s) for s in range(5)] == [4, 4, 4, 4, 2]
    assert length.batches_done(5) == 18


def test_max_steps_wins() -> None:
    length = RunLength.of(TrainerSection(num_epochs=3, max_steps=7, accumulation_steps=2), batches_per_epoch=100)
    assert (length.num_steps, length.num_batches) == (7, 14)


@pytest.mark.parametrize(("value", "steps", "expected"), [(None, 100, None), (0.25, 100, 25), (0.001, 100, 1), (30, 100, 30)])
def test_interval_is_a_share_or_a_number(value: float | None, steps: int, expected: int | None) -> None:
    assert interval(value, steps) == expected


def test_saving_follows_evaluation_then_a_fifth() -> None:
    assert RunLength.of(TrainerSection(eval_steps=10), batches_per_epoch=100).save_every == 10
    assert RunLength.of(TrainerSection(), batches_per_epoch=100).save_every == 20
    assert RunLength.of(TrainerSection(eval_steps=10, save_steps=50), batches_per_epoch=100).save_every == 50


def test_the_end_is_evaluated_only_to_compare() -> None:
    length = RunLength.of(TrainerSection(eval_steps=5), batches_per_epoch=10)
    assert length.evaluates_at(5, last=False, has_best=False)
    assert not length.evaluates_at(10, last=True, has_best=False)
    assert length.evaluates_at(10, last=True, has_best=True)
