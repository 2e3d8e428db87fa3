"""Parallel sentences as far as the configuration tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from stpipe.config.data_format import known_format, parallel_address
from stpipe.config.errors import ConfigError
from stpipe.config.load import load_config

BASE = ["model=minilm", "evaluator={}"]
TEACHER = "dataset.teacher={model: some/teacher, output: embeddings}"


def test_addresses() -> None:
    assert parallel_address("parallel://a/b.tsv.gz") == ("a/b.tsv.gz", {}, "")
    assert parallel_address("parallel:///a.tsv?max_characters=128") == ("/a.tsv", {"max_characters": 128}, "")
    assert known_format({"train": "parallel://a.tsv"}) == "pair"


@pytest.mark.parametrize("more", [[], ["dataset.format=pair"], ["dataset.format=pair-vector"], ["dataset.checks.duplicate_rows=drop"]])
def test_a_student_of_parallel_files_is_valid(more: list[str]) -> None:
    loaded = load_config([*BASE, "dataset.train=parallel://data/*.tsv", TEACHER, *more])
    assert loaded.values["loss"]["name"] == "mse"


def test_pairs_without_a_teacher_are_for_any_loss_of_pairs() -> None:
    assert load_config([*BASE, "dataset.train='parallel://a.tsv?max_characters=9'", "loss=mnrl"]).values["loss"]["name"] == "mnrl"


@pytest.mark.parametrize(
    ("overrides", "key", "part"),
    [
        (["dataset.train='parallel://a.tsv?limit=9'"], "dataset.train", "unknown option 'limit'. Known: max_characters"),
        (["dataset.train=parallel://a.tsv", "dataset.eval=parallel://"], "dataset.eval", "there is no path"),
        (["dataset.train=parallel://a.tsv", "dataset.format=triplet"], "dataset.format", "pairs without labels, not triplet"),
        (["dataset.train=parallel://a.tsv", "dataset.format=pair-score"], "dataset.format", "pairs without labels, not pair-score"),
        (["dataset.train=parallel:///nowhere/a.tsv"], "dataset.train", "there is no file or directory"),
    ],
)
def test_what_cannot_be_meant(overrides: list[str], key: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config([*BASE, *overrides])
    assert any(p.key == key and part in p.message for p in caught.value.problems), caught.value


def test_files_are_not_looked_for_when_the_run_is_for_another_machine(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("a\tb\n", encoding="utf-8")
    assert load_config([*BASE, f"dataset.train=parallel://{tmp_path}/a.tsv", "loss=mnrl"]).values["dataset"]["train"].endswith("a.tsv")


def test_the_offline_profile_puts_docstrings_in_their_place() -> None:
    loaded = load_config([*BASE, "dataset.train='parallel:///nowhere/a.tsv?max_characters=9'", TEACHER, "+profile=offline"])
    assert loaded.values["dataset"]["train"] == "stdlib://docstrings?format=pair"
