"""Losses with parameters of their own under strategies that do not train these: refused before training, as the run would."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from stpipe.config.builtin import load_components
from stpipe.config.load import load_config
from stpipe.config.registry import LOSSES
from stpipe.config.rules import check
from stpipe.config.schema import Schema, build_schema

BASE = ("model=dense", "model.name_or_path=some/model", "dataset.train=some/data")
LEARNED = {
    "mnrl": ("dataset.format=pair", "loss=mnrl", "loss.learn_scale=true"),
    "softmax": ("dataset.format=pair-class", "loss=softmax"),
    "embed_distill": ("dataset.format=pair-vector", "loss=embed_distill", "loss.projection_dim=8"),
    "denoising_auto_encoder": ("dataset.format=text", "loss=denoising_auto_encoder"),
}
NOT_LEARNED = {
    "mnrl": ("dataset.format=pair", "loss=mnrl"),
    "embed_distill": ("dataset.format=pair-vector", "loss=embed_distill"),
    "triplet": ("dataset.format=triplet", "loss=triplet"),
}


@pytest.fixture(scope="module")
def schema() -> Schema:
    load_components()
    return build_schema()


def found(overrides: tuple[str, ...], strategy: str, schema: Schema) -> list[Any]:
    loaded = load_config([*BASE, *overrides])
    values = {**loaded.values, "strategy": {**loaded.values["strategy"], "name": strategy}}
    return [p for p in check(values, schema, loaded.origins).problems if p.key == "strategy.name"]


@pytest.mark.parametrize("name", list(LEARNED))
def test_two_pass_refuses_losses_that_learn_something(name: str, schema: Schema) -> None:
    (problem,) = found(LEARNED[name], "two_pass", schema)
    assert "'two_pass' does not train what a loss learns itself" in problem.message
    assert f"loss.name = '{name}'" in problem.message and "Use strategy recompute" in problem.message
    for strategy in ("plain", "recompute", "auto"):
        assert not found(LEARNED[name], strategy, schema)


@pytest.mark.parametrize("name", list(NOT_LEARNED))
def test_two_pass_takes_losses_that_learn_nothing(name: str, schema: Schema) -> None:
    assert not found(NOT_LEARNED[name], "two_pass", schema)


def test_a_loss_inside_another_is_seen(schema: Schema) -> None:
    inside = ("dataset.format=pair", "loss=matryoshka", "loss.dims=[8]", "loss.loss={name: mnrl, learn_scale: true}")
    (problem,) = found(inside, "two_pass", schema)
    assert "loss.loss.name = 'mnrl' with loss.loss.learn_scale" in problem.message


def test_losses_say_what_they_learn() -> None:
    """The fact that `validate` reads against what each loss makes."""
    from stpipe.losses.base import Loss, ModelFacts

    load_components()
    model = ModelFacts(8, 2)
    seen = set()
    for cls in LOSSES.classes():
        assert issubclass(cls, Loss)
        names = {f.name for f in fields(cls)}
        makes = cls.learned is not Loss.learned
        assert makes <= (cls.learns is not None), f"{cls.__name__} learns something and does not say so"
        if cls.learns not in (None, "always"):
            assert cls.learns in names
            off, on = (None, 8) if cls.learns == "projection_dim" else (False, True)
            assert replace(cls(), **{cls.learns: off}).learned(model) is None
            assert replace(cls(), **{cls.learns: on}).learned(model) is not None
            seen.add(cls.learns)
    assert seen == {"learn_scale", "projection_dim"}


def test_the_rule_knows_nothing_of_strategies_by_name(schema: Schema) -> None:
    assert schema["$defs"]["strategy.two_pass"]["x-trains_objectives"] is False
    assert all(
        d.get("x-trains_objectives", True) for n, d in schema["$defs"].items() if n.startswith("strategy.") and n != "strategy.two_pass"
    )
