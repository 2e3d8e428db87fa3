"""Differences from the defaults, by the schema that validation uses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stpipe.config.schema import load_schema
from stpipe.reports.changes import Change, changed_keys, same


def changes(config: dict[str, Any]) -> dict[str, Change]:
    return {c.key: c for c in changed_keys(config, load_schema())}


def test_only_what_differs_is_listed() -> None:
    found = changes({"trainer": {"batch_size": 64, "seed": 42, "num_epochs": 1}})
    assert list(found) == ["trainer.batch_size"]
    assert found["trainer.batch_size"].as_dict() == {"key": "trainer.batch_size", "value": 64, "default": 32}


def test_components_are_compared_with_their_own_defaults() -> None:
    found = changes({"loss": {"name": "matryoshka", "dims": [16], "loss": {"name": "mnrl", "scale": 20.0, "similarity": "dot"}}})
    assert {"loss.name", "loss.dims", "loss.loss.name", "loss.loss.similarity"} <= set(found)
    assert "loss.loss.scale" not in found
    assert "default" not in found["loss.dims"].as_dict()
    assert found["loss.loss.similarity"].default == "cosine"


def test_an_alias_has_the_defaults_of_its_component() -> None:
    assert "loss.scale" not in changes({"loss": {"name": "MultipleNegativesRankingLoss", "scale": 20.0}})


def test_sections_inside_sections_and_named_sections() -> None:
    config = {"dataset": {"checks": {"overlap": "drop", "empty": "fail"}, "sources": {"a": {"weight": 2.0, "eval_rows": 1000}}}}
    assert list(changes(config)) == ["dataset.checks.overlap", "dataset.sources.a.weight"]


def test_the_untouched_default_configuration_has_no_changes() -> None:
    defaults = {k: p["default"] for k, p in load_schema()["properties"].items() if "default" in p}
    assert len(defaults) > 8
    assert changes(json.loads(json.dumps(defaults))) == {}


def test_what_the_schema_does_not_know_is_listed() -> None:
    found = changes({"loss": {"name": "of_a_user", "depth": {"a": 1}}, "unheard": 3})
    assert list(found) == ["loss.name", "loss.depth.a", "unheard"]
    assert all(c.required for c in found.values())


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ((1, 2), [1, 2], True),
        (1, 1.0, True),
        (True, 1, False),
        ([1], [1, 2], False),
        (None, 0, False),
        ("a", "a", True),
        ([True], [1], False),
    ],
)
def test_same(left: Any, right: Any, expected: bool) -> None:
    assert same(left, right) is expected
