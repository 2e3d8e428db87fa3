from __future__ import annotations

import pytest

from stpipe.config.redact import REDACTED, redact_command, redact_secrets, scrub, secrets_of


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
