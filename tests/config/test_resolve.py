from __future__ import annotations

import pytest

from stpipe.config.load import load_config, redact
from stpipe.config.redact import REDACTED, is_secret, redact_command, redact_secrets

BASE = ["model=minilm", "dataset=docstrings"]


def values(*overrides):
    return load_config([*BASE, *overrides]).values


@pytest.mark.parametrize(
    ("fmt", "loss", "sampler"),
    [
        ("pair", "mnrl", "no_duplicates"),
        ("triplet", "mnrl", "no_duplicates"),
        ("pair-score", "cosent", "random"),
        ("labelled-text", "batch_hard_soft_margin_triplet", "group_by_label"),
    ],
)
def test_loss_and_sampler_follow_the_format(fmt, loss, sampler):
    found = values(f"dataset.format={fmt}")
    assert (found["loss"]["name"], found["sampler"]["name"]) == (loss, sampler)


def test_format_from_roles_and_address():
    assert (
        values("dataset.format=null", "dataset.train=x.jsonl", "dataset.columns={anchor: a, positive: b, negative_1: c}")["loss"]["name"]
        == "mnrl"
    )
    assert values("dataset.format=null", "dataset.train='stdlib://docstrings?format=pair-score'")["loss"]["name"] == "cosent"
    assert values("dataset.format=null", "dataset.train=x.jsonl")["loss"] is None


def test_components_are_named_when_only_their_keys_are_set():
    found = load_config(
        [
            "model.name_or_path=x",
            "dataset.train=stdlib://docstrings",
            "optimizer.lr=1e-3",
            "sampler.mixing=weighted",
            "loss.scale=5",
            "strategy.token_budget=64",
        ]
    ).values
    assert found["model"]["name"] == "dense"
    assert found["optimizer"] == {**found["optimizer"], "name": "adamw", "lr": 1e-3}
    assert found["sampler"] == {**found["sampler"], "name": "no_duplicates", "mixing": "weighted"}
    assert found["loss"] == {**found["loss"], "name": "mnrl", "scale": 5.0}
    assert found["strategy"] == {"name": "auto", "token_budget": 64, "score_chunk": None}


def test_cached_losses_are_the_plain_ones_under_recompute():
    for override in ("loss=cached_mnrl", "loss={name: CachedMultipleNegativesRankingLoss}"):
        found = values(override)
        assert (found["loss"]["name"], found["strategy"]["name"]) == ("mnrl", "recompute")
        assert values(override, "strategy=plain")["strategy"]["name"] == "plain"


def test_the_same_configuration_has_the_same_name():
    first = values()["run"]
    assert first == values()["run"]
    assert first["name"].startswith("all-minilm-l6-v2-mnrl-")
    assert first["dir"] == f"outputs/custom/{first['name']}"
    assert values("trainer.seed=7")["run"]["name"] != first["name"]
    for harmless in ("trainer.resume=auto", "run.overwrite=true", "trainer.progress=off", "card.license=mit"):
        assert values(harmless)["run"]["name"] == first["name"]
    assert load_config(["+recipe=cosent_stsb", "run.name=a"]).values["run"]["dir"] == "outputs/cosent_stsb/a"


def test_top_keys_are_defaults_of_the_sources():
    sources = values(
        "dataset=null",
        "dataset.max_rows=5",
        "dataset.max_length={default: 9}",
        "dataset.sources={a: {train: x}, b: {train: y, max_rows: 7}}",
    )["dataset"]["sources"]
    assert (sources["a"]["max_rows"], sources["b"]["max_rows"]) == (5, 7)
    assert sources["a"]["max_length"] == {}
    assert sources["a"]["train"] == "x"


def test_offline_profile_swaps_each_source_in_its_format():
    loaded = load_config(["+recipe=multi_dataset", "+profile=offline"])
    sources = loaded.values["dataset"]["sources"]
    assert sources["nli"]["train"] == "stdlib://docstrings?format=pair"
    assert sources["stsb"]["train"] == "stdlib://docstrings?format=pair-score"
    assert sources["nli"]["columns"] == {}
    assert sources["nli"]["eval"] is None
    assert sources["nli"]["subset"] is None
    assert loaded.values["offline"] is True
    assert len([w for w in loaded.warnings if "stand in for" in w]) == 2


def test_secrets_are_redacted_by_key():
    assert [k for k in ("hub_token", "token", "api_key", "password", "wandb_api_key") if not is_secret(k)] == []
    assert [k for k in ("token_budget", "max_tokens", "key", "tokenizer", "monkey") if is_secret(k)] == []
    assert redact_secrets({"a": [{"token": "x"}], "token": None, "api_key": "${oc.env:K}"}) == {
        "a": [{"token": REDACTED}],
        "token": None,
        "api_key": "${oc.env:K}",
    }
    assert redact_command(["train", "tracker.api_key=x", "+a.token=y", "trainer.seed=1"]) == [
        "train",
        f"tracker.api_key={REDACTED}",
        f"+a.token={REDACTED}",
        "trainer.seed=1",
    ]


def test_redacted_values_are_otherwise_the_values():
    loaded = load_config(["+recipe=cosent_stsb"])
    assert redact(loaded) == loaded.values
