"""Losses under their documented names, with all that they wrap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stpipe.cards.citations import entry_key
from stpipe.cards.losses import LossFacts, describe_losses, run_losses
from stpipe.config.build import build_component
from stpipe.config.load import load_config
from stpipe.config.schema import load_schema
from stpipe.reports.metrics_log import MetricsLog
from stpipe.reports.run_record import RunRecord

MNRL = {"name": "mnrl", "scale": 20.0}


def facts(config: dict[str, Any]) -> tuple[LossFacts, ...]:
    empty: dict[str, Any] = {}
    return run_losses(RunRecord(Path("run"), config, empty, empty, empty, empty, MetricsLog()), load_schema())


@pytest.mark.parametrize(
    ("loss", "names"),
    [
        (MNRL, ("MultipleNegativesRankingLoss",)),
        ({"name": "MultipleNegativesRankingLoss"}, ("MultipleNegativesRankingLoss",)),
        ({"name": "matryoshka", "dims": [8], "loss": MNRL}, ("MatryoshkaLoss", "MultipleNegativesRankingLoss")),
        ({"name": "of_a_user", "depth": 3}, ("of_a_user",)),
    ],
)
def test_documented_names(loss: dict[str, Any], names: tuple[str, ...]) -> None:
    (found,) = facts({"loss": loss})
    assert (found.source, found.name, found.names, found.config) == (None, names[0], names, loss)


def test_the_terms_of_a_sum() -> None:
    terms = {"main": {"loss": MNRL, "weight": 1.0}, "side": {"loss": {"name": "cosent"}, "weight": 0.1}}
    (found,) = facts({"loss": {"name": "sum", "terms": terms}})
    assert found.names[1:] == ("MultipleNegativesRankingLoss", "CoSENTLoss")
    assert [entry_key(c) for c in found.citations] == ["oord2018representation", "huang2024cosent"]


def test_a_sum_as_it_is_trained_is_described_as_it_is_configured() -> None:
    terms = "loss.terms={main: {loss: {name: angle}}, side: {loss: {name: cosent}, weight: 0.1}}"
    loaded = load_config(["model=minilm", "dataset=docstrings", "dataset.format=pair-score", "loss=sum", terms])
    loss = build_component("loss", loaded.values["loss"])
    found = describe_losses({"a": loss, "b": build_component("loss", loaded.values["loss"])})
    assert [(f.source, f.names) for f in found] == [(None, ("SumLoss", "AnglELoss", "CoSENTLoss"))], "equal losses are named once"
    assert found[0].config["terms"]["side"] == {"loss": found[0].config["terms"]["side"]["loss"], "weight": 0.1}
    assert [f.source for f in describe_losses({"a": loss, "b": build_component("loss", {"name": "mnrl"})})] == ["a", "b"]


def test_data_sets_with_losses_of_their_own() -> None:
    sources = {"a": {"loss": {"name": "cosent"}}, "b": {"loss": None}}
    assert [(f.source, f.name) for f in facts({"loss": MNRL, "dataset": {"sources": sources}})] == [
        ("a", "CoSENTLoss"),
        (None, "MultipleNegativesRankingLoss"),
    ]
    sources["b"] = {"loss": MNRL}
    assert [f.source for f in facts({"loss": {"name": "triplet"}, "dataset": {"sources": sources}})] == ["a", "b"]


def test_no_loss_recorded() -> None:
    assert facts({}) == ()
    assert facts({"loss": None}) == ()


def test_a_loss_without_source_has_no_citation() -> None:
    (found,) = facts({"loss": {"name": "of_a_user"}})
    assert found.citations == ()
