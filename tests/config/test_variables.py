"""Environment variables come back as they were, whatever happened inside."""

from __future__ import annotations

import os

import pytest

from stpipe.config.variables import variables


def test_values_are_there_inside_and_as_before_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STPIPE_TEST_A", "old")
    monkeypatch.delenv("STPIPE_TEST_B", raising=False)
    seen: dict[str, str] = {}

    def fail_inside() -> None:
        with variables({"STPIPE_TEST_A": "new", "STPIPE_TEST_B": "new"}):
            seen.update({name: os.environ[name] for name in ("STPIPE_TEST_A", "STPIPE_TEST_B")})
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail_inside()
    assert seen == {"STPIPE_TEST_A": "new", "STPIPE_TEST_B": "new"}
    assert os.environ["STPIPE_TEST_A"] == "old" and "STPIPE_TEST_B" not in os.environ


def test_what_was_taken_away_inside_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STPIPE_TEST_A", raising=False)
    with variables({"STPIPE_TEST_A": "new"}):
        del os.environ["STPIPE_TEST_A"]
    assert "STPIPE_TEST_A" not in os.environ
