"""What cannot be streamed is refused before training, with both keys."""

from __future__ import annotations

import pytest

from stpipe.config.errors import ConfigError
from stpipe.config.load import load_config

BASE = ["model=minilm", "dataset.train=data/rows", "dataset.streaming=true", "dataset.format=pair", "evaluator={}", "trainer.max_steps=10"]
TWO = ["dataset.train=null", "+dataset.sources={a: {train: some/a, format: pair}, b: {train: some/b, format: pair}}"]


def problems(*overrides: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_config([*BASE, *overrides])
    return {p.key: p.message for p in caught.value.problems}


@pytest.mark.parametrize(
    ("overrides", "key", "other"),
    [
        (["trainer.max_steps=null"], "trainer.max_steps", "dataset.streaming=true"),
        (["dataset.joins={anchor: texts.jsonl}"], "dataset.joins", "dataset.streaming=true"),
        (["dataset.teacher={model: some/teacher, output: scores}"], "dataset.teacher", "dataset.streaming=true"),
        (["+mine.num_negatives=2"], "mine", "dataset.streaming=true"),
        (["loss={name: gist_embed, guide: {model: some/guide}}"], "loss.name", "dataset.streaming=true"),
        ([*TWO, "sampler=random"], "sampler.mixing", "dataset.sources.a.streaming=true"),
    ],
)
def test_refused_with_both_keys(overrides: list[str], key: str, other: str) -> None:
    found = problems(*overrides)
    assert key in found and other in found[key], found


@pytest.mark.parametrize("mixing", ["weighted", "round_robin"])
def test_mixtures_that_need_no_numbers_are_fine(mixing: str) -> None:
    loaded = load_config([*BASE, *TWO, "sampler=random", f"sampler.mixing={mixing}"])
    assert all(section["streaming"] for section in loaded.values["dataset"]["sources"].values())


def test_grouping_within_the_buffer_is_said() -> None:
    loaded = load_config([*BASE[:3], "dataset.format=labelled-text", *BASE[4:], "sampler=group_by_label", "dataset.shuffle_buffer=500"])
    assert any("dataset.shuffle_buffer" in warning and "500" in warning for warning in loaded.warnings)
