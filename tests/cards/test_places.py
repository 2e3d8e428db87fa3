"""No place on somebody's disk is published."""

from __future__ import annotations

import pytest

from stpipe.cards.hyperparameters import hyper_parameters
from stpipe.cards.places import published_command, published_value


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("stpipe train +recipe=x trainer.seed=7", "stpipe train +recipe=x trainer.seed=7"),
        ("stpipe train dataset.train=/secret/place/pairs.jsonl", "stpipe train dataset.train=pairs.jsonl"),
        ("stpipe train dataset.train=../secret/pairs.jsonl loss=mnrl", "stpipe train dataset.train=pairs.jsonl loss=mnrl"),
        ("stpipe train --from ~/secret/run --config-dir /secret/conf", "stpipe train --from run --config-dir conf"),
        ("stpipe train model.name_or_path=user/name dataset.train=hf://datasets/a/b", None),
        (["stpipe", "train", "dataset.train=/secret/a b.csv"], "stpipe train 'dataset.train=a b.csv'"),
        (
            "stpipe train +dataset.eval=parallel:///secret/en-de.tsv.gz?max_characters=9",
            "stpipe train +dataset.eval=parallel://en-de.tsv.gz",
        ),
        (
            [
                "stpipe",
                "train",
                "dataset.sources={a: {train: 'parallel:///secret/a.tsv?max_characters=9', weight: 3}, b: {train: /secret/b.csv}}",
            ],
            "stpipe train 'dataset.sources={a: {train: '\"'\"'parallel://a.tsv'\"'\"', weight: 3}, b: {train: b.csv}}'",
        ),
        (
            "stpipe train 'dataset.teacher={model:/secret/model, other: package://gt/model}' x=[~/secret/a,hf://user/name]",
            "stpipe train 'dataset.teacher={model:model, other: package://gt/model}' 'x=[a,hf://user/name]'",
        ),
        ('stpipe train "unclosed /secret/x', "stpipe train '\"unclosed' x"),
        (r"stpipe train 'dataset.train=C:\secret\pairs.csv'", "stpipe train dataset.train=pairs.csv"),
    ],
)
def test_commands(command: str | list[str], shown: str | None) -> None:
    found = published_command(command)
    assert "secret" not in found
    if shown is not None:
        assert found == shown


def test_values_of_any_depth() -> None:
    given = {
        "a": ["/secret/x", "user/name", 3],
        "b": {"c": "~/secret/y.csv", "f": "parallel://secret/z.tsv", "d": "text/with slash", "e": None},
    }
    assert published_value(given) == {
        "a": ["x", "user/name", 3],
        "b": {"c": "y.csv", "f": "parallel://z.tsv", "d": "text/with slash", "e": None},
    }


def test_hyper_parameters_are_leaves_without_names_and_places() -> None:
    config = {
        "model": {"name": "dense", "name_or_path": "/secret/model"},
        "loss": {"name": "denoising_auto_encoder", "decoder": "/secret/decoder", "dims": [1, 2], "terms": {}},
        "dataset": {"train": "/secret/data", "max_rows": 3, "cache_dir": "/secret", "sources": {"a": {"eval": "/secret", "weight": 1.0}}},
        "run": {"dir": "/secret"},
        "trainer": {"seed": 1, "resume": "/secret/checkpoint"},
    }
    assert hyper_parameters(config) == {
        "model.name": "dense",
        "loss.name": "denoising_auto_encoder",
        "loss.decoder": "decoder",
        "loss.dims": [1, 2],
        "loss.terms": {},
        "dataset.max_rows": 3,
        "dataset.sources.a.weight": 1.0,
        "trainer.seed": 1,
    }
