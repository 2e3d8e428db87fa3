"""What the Hub or this machine would refuse of a card is said before anything is trained."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from stpipe.config.card_rules import LICENSES
from stpipe.config.errors import ConfigError
from stpipe.config.load import load_config

BASE = ("model=minilm", "dataset.train=stdlib://docstrings", "loss=mnrl", "dataset.format=pair")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("card.language=English", ("card.language", "'English'", "like en or deu")),
        ("card.language='en, e'", ("'e' is no language",)),
        ("card.template=none.md.j2", ("card.template", "none.md.j2", "cannot be read")),
        ("card.energy=Germany", ("card.energy", "'Germany'", "DEU")),
        ("card.energy=DEX", ("'DEX' is no country", "Did you mean")),
    ],
)
def test_refused(override: str, parts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config([*BASE, override])
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "override", ["card.language=en", "card.language='de, en'", "card.language=multilingual", "card.license=mit", "card.energy=DEU"]
)
def test_accepted(override: str) -> None:
    assert not [w for w in load_config([*BASE, override]).warnings if "card" in w]


def test_an_unknown_licence_is_warned_of() -> None:
    (found,) = [w for w in load_config([*BASE, "card.license=apache2"]).warnings if "card.license" in w]
    assert "'apache2'" in found and "Did you mean 'apache-2.0'" in found
    assert len(LICENSES) > 60 and "other" in LICENSES


def test_a_broken_template_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "card.md.j2"
    path.write_text("one\n{{ title }\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 2"):
        load_config([*BASE, f"card.template={path}"])


def test_without_codecarbon_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "codecarbon" else real(name, *rest))
    with pytest.raises(ConfigError, match=r"pip install 'stpipe\[energy\]'"):
        load_config([*BASE, "card.energy=DEU"])
