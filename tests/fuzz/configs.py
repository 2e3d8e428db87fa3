"""Hostile configurations: YAML that is nearly right, and overrides that nobody would type. Each is a configuration or a ConfigError."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from stpipe.config.decode import Decoder
from stpipe.config.errors import ConfigError
from stpipe.config.load import load_config, redact
from stpipe.config.origins import Origins
from stpipe.config.schema import definition, load_schema
from stpipe.config.yaml_file import parse_yaml, read_yaml
from tests.fuzz.damage import damaged
from tests.fuzz.limits import in_time

BASE = {
    "defaults": [{"override /model": "minilm"}, {"override /loss": "mnrl"}, {"override /evaluator": "retrieval"}, "_self_"],
    "dataset": {"train": "stdlib://docstrings", "format": "pair"},
    "trainer": {"max_steps": 3, "batch_size": 32},
}
SCALARS = (
    "null",
    "true",
    "-1",
    "0",
    "1e400",
    "1" + "0" * 400,
    ".nan",
    "'x'",
    "../../x",
    "x" * 3000,
    "'\\0'",
    "???",
    "${run.name}",
    "${trainer.nowhere}",
    "${oc.env:STPIPE_NOT_SET}",
    "${oc.env:HOME}",
    "${oc.decode:'{a: 1'}",
    "${${run.name}}",
    "[]",
    "[1, x, null]",
    "{}",
    "{name: mnrl}",
    "{name: [x]}",
    "{name: matryoshka, dims: [8], loss: {name: mnrl}}",
    "!!python/object/apply:os.system [id]",
    "!!python/name:os.system",
    "!!binary x",
    "!!int x",
    "2001-01-01",
    "&a [*a]",
    "[" * 200 + "]" * 200,
    "con",
    "\u202e",
)
TEXTS = (
    "name: x",
    "? [a, b]\n: c",
    "a: b: c",
    "\t x",
    "%YAML 9.9",
    "--- a\n--- b",
    "<<: *x",
    "<<: &m {<<: *m}",
    "\x00: 1",
    "a: &b {c: *b}",
    "- x",
)


@functools.cache
def key_paths() -> tuple[str, ...]:
    """Keys of the schema that are no component's, and a few of components."""
    schema = load_schema([])
    found = []
    for key, node in schema["properties"].items():
        inner: Any = definition(schema, node)
        for option in inner.get("anyOf", [inner]):
            found += [f"{key}.{name}" for name in definition(schema, option).get("properties", {})]
        found.append(key)
    return (
        *found,
        "loss.scale",
        "model.name_or_path",
        "evaluator.dev.name",
        "evaluator.'../../x'",
        "strategy.token_budget",
        "nowhere",
        "a.b.c",
    )


@st.composite
def yaml_texts(draw: st.DrawFn) -> str:
    """A recipe with a few values or lines that do not belong there, or with damaged bytes."""
    lines = yaml.safe_dump(BASE, sort_keys=False).splitlines()
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from(key_paths())).replace("'", "")
        section, _, name = key.partition(".")
        value = draw(st.sampled_from(SCALARS))
        lines += [f"{section}: {value}"] if not name else [f"{section}:", f"  {name}: {value}"]
    for _ in range(draw(st.integers(0, 1))):
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(TEXTS)))
    text = "\n".join(lines) + "\n"
    if draw(st.integers(0, 3)) == 0:
        text = damaged(text.encode(), draw(st.integers(0, 2**32))).decode("utf-8", "replace")
    return text


def check_yaml(text: str) -> None:
    """Read it and decode it against the schema."""
    with in_time(lambda: repr(text)):
        try:
            values, _ = parse_yaml(text, "recipe.yaml")
        except ConfigError as error:
            well_told(error, "recipe.yaml")
            return
        values.pop("defaults", None)
        decoder = Decoder(load_schema([]), Origins())
        decoder.read(values)
        assert all(problem.key and problem.message for problem in decoder.problems)
        json.dumps(values)


@st.composite
def commands(draw: st.DrawFn) -> tuple[str, tuple[str, ...]]:
    """(a recipe, overrides)."""
    written = st.builds(
        "{}{}={}".format,
        st.sampled_from(("", "", "+", "++")),
        st.sampled_from(key_paths()),
        st.sampled_from((*SCALARS, "a,b", "range(1,3)")),
    )
    chosen = st.builds(
        "{}={}".format,
        st.sampled_from(("loss", "model", "sampler", "evaluator", "profile")),
        st.sampled_from(("mnrl", "x", "no/where", "null", "[a,b]")),
    )
    removed = st.builds("~{}".format, st.sampled_from(key_paths()))
    junk = st.sampled_from(
        ("=", "a", "{", "imports=[", "imports=[no.such]", "+recipe=../../etc/passwd", "a=" + "[" * 400, "\x00=1", "+=", "a.b", "--", "x='")
    )
    overrides = draw(st.lists(st.one_of(written, written, chosen, removed, junk), max_size=3))
    text = draw(st.one_of(st.just(yaml.safe_dump(BASE, sort_keys=False)), yaml_texts()))
    return text, tuple(overrides)


def check_command(case: tuple[str, tuple[str, ...]]) -> None:
    """Compose and check it as `stpipe validate` does; what is valid can be written down and read back."""
    text, overrides = case
    with tempfile.TemporaryDirectory(prefix="stpipe-fuzz-") as scratch, in_time(lambda: repr(case)):
        folder = Path(scratch) / "recipe"
        folder.mkdir()
        (folder / "fuzzed.yaml").write_text(f"# @package _global_\n{text}", encoding="utf-8", errors="replace")
        try:
            loaded = load_config(["+recipe=fuzzed", *overrides], config_dir=scratch)
        except ConfigError as error:
            well_told(error, "fuzzed", *overrides)
            return
        saved = Path(scratch) / "config.yaml"
        saved.write_text(yaml.safe_dump(redact(loaded), sort_keys=False, allow_unicode=True), encoding="utf-8")
        assert read_yaml(saved)[0] == redact(loaded)


def well_told(error: ConfigError, *places: str) -> None:
    """Each problem says something, and where: a key, a place in a file, an override."""
    assert error.problems, repr(error)
    for problem in error.problems:
        where = f"{problem.where} {problem.key} {problem.message}"
        assert problem.message, repr(problem)
        assert problem.key or any(place in where for place in places), f"no place in: {problem}"
