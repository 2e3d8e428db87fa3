"""A few hundred hostile configurations in every run of the tests; scripts/fuzz.py tries ten thousand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stpipe.config.errors import ConfigError
from stpipe.config.load import load_config
from stpipe.config.yaml_file import parse_yaml
from tests.fuzz.configs import BASE, check_command, check_yaml, commands, yaml_texts
from tests.fuzz.limits import fuzz, in_time

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_hostile_yaml() -> None:
    fuzz(check_yaml, yaml_texts(), 150)


def test_hostile_commands() -> None:
    fuzz(check_command, commands(), 20)


def test_the_unharmed_recipe_is_valid(tmp_path: Path) -> None:
    """So that the cases above are not all refused at the door."""
    import yaml

    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("# @package _global_\n" + yaml.safe_dump(BASE, sort_keys=False))
    assert load_config(["+recipe=mine"], config_dir=str(tmp_path)).values["trainer"]["max_steps"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "more than 100,000 values"),
        ("a: &a {b: *a}", "nested deeper than"),
        ("a: &a\n  <<: *a\n", "."),
        ("[" * 5000, "nested deeper than"),
        ("x: !!python/object/apply:os.system [touch pwned]", "python/object/apply:os.system makes an object"),
        ("x: !!python/name:os.system", "python"),
        ("x: !!int hello", "is no int"),
        ("x: \x00", "not allowed"),
    ],
    ids=["bomb", "itself", "merges itself", "deep", "python object", "python name", "no int", "nul"],
)
def test_yaml_that_would_do_harm(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with in_time(lambda: message), pytest.raises(ConfigError, match=message) as caught:
        parse_yaml(text, "recipe.yaml")
    assert "recipe.yaml" in str(caught.value)
    # The same through the files that Hydra reads, wherever they stand.
    for place in ("recipe", "loss"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "harm.yaml").write_text(text)
        with in_time(lambda: message), pytest.raises(ConfigError, match=message):
            load_config(
                [f"{'+' if place == 'recipe' else ''}{place}=harm", "model=minilm", "dataset.train=stdlib://docstrings"],
                config_dir=str(tmp_path),
            )
    assert not os.path.exists("pwned")


def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "latin.yaml").write_bytes(b"run:\n  name: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"not UTF-8.*latin.yaml:2"):
        load_config(["+recipe=latin"], config_dir=str(tmp_path))
