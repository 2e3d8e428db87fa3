from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from stpipe.config import redact
from stpipe.config.redact import (
    REDACTED,
    is_secret,
    redact_command,
    redact_secrets,
    redact_text,
    remember_command,
    remember_secrets,
    scrub,
    scrub_values,
    secrets_of,
)
from stpipe.config.schema import load_schema


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch):
    monkeypatch.setattr(redact, "_remembered", set())


def test_secret_keys_are_redacted_wherever_they_stand():
    values = {"a": {"api_key": "x1", "token_budget": 3, "list": [{"hub_token": "x2"}]}, "password": "${oc.env:PASSWORD}"}
    assert redact_secrets(values) == {
        "a": {"api_key": REDACTED, "token_budget": 3, "list": [{"hub_token": REDACTED}]},
        "password": "${oc.env:PASSWORD}",
    }
    assert secrets_of(values) == ["${oc.env:PASSWORD}", "x1", "x2"]


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("tracker.own.api_key=abc", f"tracker.own.api_key={REDACTED}"),
        ("strategy.token_budget=4096", "strategy.token_budget=4096"),
        ("tracker={own: {name: x, api_key: abc, file: f}}", f"tracker={{own: {{name: x, api_key: {REDACTED}, file: f}}}}"),
        ("tracker={own: {api_key: 'a b, c'}}", f"tracker={{own: {{api_key: {REDACTED}}}}}"),
        ("+recipe=dense", "+recipe=dense"),
        ("dataset.columns={anchor: a, positive: b}", "dataset.columns={anchor: a, positive: b}"),
    ],
)
def test_commands(argument, shown):
    assert redact_command([argument]) == [shown]


def test_texts_of_others(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "swordfish-1")
    monkeypatch.setenv("SHORT_TOKEN", "no")
    monkeypatch.setenv("SOME_NAME", "harmless")
    text = "no answer from https://me:pw@host/a?b=swordfish-1, harmless swordfish-2"
    assert scrub(text, ["swordfish-2"]) == f"no answer from https://{REDACTED}@host/a?b={REDACTED}, harmless {REDACTED}"
    assert scrub("http://host/a@b") == "http://host/a@b"


def keys_of(node: Any) -> Iterator[str]:
    """All keys that a schema knows."""
    if isinstance(node, dict):
        yield from node.get("properties", {})
        for inner in node.values():
            yield from keys_of(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from keys_of(inner)


def test_no_key_of_stpipe_passes_for_a_secret():
    """A configuration that is saved must be the one that was run, but for its secrets; `true_token` is a word."""
    keys = set(keys_of(load_schema([])))
    assert len(keys) > 300 and {"true_token", "token_budget"} <= keys
    assert [key for key in keys if is_secret(key)] == []
    assert redact_secrets({"model": {"true_token": "yes"}}) == {"model": {"true_token": "yes"}}


def test_names_are_no_keys():
    """A data set may be called so; what it holds is no secret."""
    values = {"sources": {"token_classification": {"train": "a.jsonl", "api_key": "k"}, "passwords": {"train": "b.jsonl"}}}
    shown = redact_secrets(values)["sources"]
    assert shown == {"token_classification": {"train": "a.jsonl", "api_key": REDACTED}, "passwords": {"train": "b.jsonl"}}
    assert secrets_of(values) == ["k"]


@pytest.mark.parametrize(
    "key", ["HF_TOKEN", "AWS_ACCESS_KEY_ID", "hubToken", "db-password", "client_secret", "apikey", "private_key", "credentials"]
)
def test_names_of_secrets(key):
    assert is_secret(key)


def test_secrets_inside_other_texts_of_a_configuration(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "averylongtoken-1")
    monkeypatch.setenv("DB_PASSWORD", "default")
    values = {
        "a": "Bearer averylongtoken-1",
        "b": ["https://me:p@ss@host/x?token=t1&n=2", "default"],
        "c": "hf_" + "a" * 30,
        "passwords": ["x", "y"],
    }
    assert redact_secrets(values) == {
        "a": f"Bearer {REDACTED}",
        "b": [f"https://{REDACTED}@host/x?token={REDACTED}&n=2", "default"],
        "c": REDACTED,
        "passwords": [REDACTED, REDACTED],
    }
    assert redact_secrets(redact_secrets(values)) == redact_secrets(values)


def test_what_was_composed_is_remembered_in_all_its_spellings():
    remember_secrets({"x": {"password": 'quo"ted/1', "api_key": "${oc.env:KEY}"}})
    remember_command(["tracker={own: {token: from-a-mapping}}", "a.secret=from-a-key", "b.seed=12345678"])
    text = 'quo"ted/1 quo\\"ted/1 quo%22ted%2F1 from-a-mapping from-a-key 12345678 ${oc.env:KEY}'
    assert scrub(text) == " ".join([REDACTED] * 5) + " 12345678 ${oc.env:KEY}"
    assert scrub_values({"error": ["from-a-key"], "hub_token": "t"}) == {"error": [REDACTED], "hub_token": REDACTED}


def test_yaml_as_it_is_shown():
    text = "own:\n  api_key: abc\n  token: ${oc.env:X}\n  password: null\n  token_budget: 4\n"
    assert redact_text(text) == text.replace("abc", REDACTED)
