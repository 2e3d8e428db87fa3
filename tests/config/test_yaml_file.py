from __future__ import annotations

import pytest

from stpipe.config.errors import ConfigError
from stpipe.config.yaml_file import header_line, parse_yaml, write_yaml

TEXT = """\
a: 1e-5
b:
  c: [1, {d: x}]
  e: 2020-01-01
f: "1e-5"
g: &anchor {h: -.5}
i: *anchor
"""


def test_values_and_lines():
    values, places = parse_yaml(TEXT, "f.yaml")
    assert values == {"a": 1e-5, "b": {"c": [1, {"d": "x"}], "e": "2020-01-01"}, "f": "1e-5", "g": {"h": -0.5}, "i": {"h": -0.5}}
    assert places[("a",)] == "f.yaml:1"
    assert places[("b", "c", 1, "d")] == "f.yaml:3"
    assert places[("b", "e")] == "f.yaml:4"


def test_written_text_reads_back():
    values, _ = parse_yaml(TEXT, "f.yaml")
    values["more"] = {"text": "1e-5", "none": None, "on": True, "unit": "5m", "list": []}
    assert parse_yaml(write_yaml(values, header="one\ntwo"), "x")[0] == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", r"not valid YAML: .*bad.yaml:1"),
        ("a: 1\nb: 2\na: 3", r"a: key occurs twice \(first in bad.yaml:1\).*bad.yaml:3"),
        ("- 1", r"expected keys and values.*bad.yaml:1"),
        ("a:\n\tb: 1", r"not valid YAML: .*bad.yaml:2"),
        ("x:\n  1: a", r"x: a key must be text, found 1.*bad.yaml:2"),
    ],
)
def test_broken_files_name_the_line(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, "bad.yaml")


def test_empty_file_is_an_empty_mapping():
    assert parse_yaml("# nothing\n", "x") == ({}, {})


def test_header_line_skips_the_package(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("# @package _global_\n#\n# What it is.\n# More.\na: 1\n")
    assert header_line(file) == "What it is."
    file.write_text("a: 1\n# late\n")
    assert header_line(file) == ""
