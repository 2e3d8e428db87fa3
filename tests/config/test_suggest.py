from __future__ import annotations

import pytest

from stpipe.config.suggest import edit_distance, nearest, unknown_name

KEYS = ["num_epochs", "max_steps", "batch_size", "eval_batch_size", "seed", "lr", "eps", "eval", "train"]


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("", "", 0), ("abc", "abc", 0), ("abc", "acb", 1), ("abc", "ab", 1), ("kitten", "sitting", 3)]
)
def test_edit_distance(a, b, distance):
    assert edit_distance(a, b) == edit_distance(b, a) == distance


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("num_epoch", "num_epochs"),
        ("bacth_size", "batch_size"),
        ("SEED", "seed"),
        ("rl", "lr"),
        ("l", "lr"),
        ("tran", "train"),
        ("evla", "eval"),
    ],
)
def test_one_edit_finds_the_key(word, key):
    assert nearest(word, KEYS) == key


def test_nothing_like_it():
    assert nearest("zzzzzz", KEYS) is None
    assert unknown_name("key", "zzzzzz", KEYS).startswith("unknown key 'zzzzzz'. Known: batch_size")
