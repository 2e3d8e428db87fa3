"""Writing a card and reading it back, for the tests of this folder."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from stpipe.cards.card import write_card
from stpipe.config.card_rules import LICENSES

# What the Hub and sentence-transformers know (the latter reads no other key).
KNOWN_KEYS = {
    "language",
    "license",
    "library_name",
    "tags",
    "datasets",
    "metrics",
    "pipeline_tag",
    "widget",
    "model-index",
    "co2_eq_emissions",
    "base_model",
}


def configure(run_dir: Path, section: str, **values: Any) -> None:
    """Change keys of a section of the run's configuration."""
    path = run_dir / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config[section].update(values)
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **values}), encoding="utf-8")


def head(text: str) -> dict[str, Any]:
    """The front matter as plain YAML."""
    return yaml.safe_load(text.split("---\n")[1])


def card(run_dir: Path) -> str:
    """The card's text; its front matter is one that the Hub's own library reads back without loss, its tables are whole."""
    text = write_card(run_dir, run_dir / "model").read_text(encoding="utf-8")
    assert_publishable(text)
    return text


def assert_publishable(text: str, *, tables: int = 2) -> None:
    """What the Hub's library and its validator ask of front matter, and whole tables."""
    matter = head(text)
    assert set(matter) <= KNOWN_KEYS
    read = ModelCard(text, ignore_metadata_errors=False)
    assert yaml.safe_load(read.data.to_yaml()) == matter
    assert matter["library_name"] == "sentence-transformers"
    languages = matter.get("language", [])
    for code in [languages] if isinstance(languages, str) else languages:
        assert re.fullmatch(r"[a-z]{2,3}|multilingual|code", code)
    assert matter.get("license", "other") in LICENSES
    assert all(isinstance(tag, str) and tag for tag in matter["tags"]) and len(set(matter["tags"])) == len(matter["tags"])
    for entry in matter.get("widget", []):
        assert set(entry) in ({"source_sentence", "sentences"}, {"text"})
    if "model-index" in matter:
        name, results = model_index_to_eval_results(matter["model-index"])
        assert results and eval_results_to_model_index(name, results) == matter["model-index"]
        for result in results:
            assert re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", result.dataset_type)
            assert isinstance(result.metric_value, int | float)
    assert_tables(text, least=tables)


def assert_tables(text: str, *, least: int) -> None:
    """Each Markdown table has a header, a rule and rows of one width."""
    outside = re.sub(r"^```.*?^```$", "", text.split("---\n", 2)[2], flags=re.M | re.S)
    tables = re.findall(r"(?:^\|.*\n)+", outside, re.M)
    assert len(tables) >= least
    for table in tables:
        lines = table.strip().splitlines()
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(widths) == 1, table
        assert re.fullmatch(r"\|(:?-+:?\|)+", lines[1].replace(" ", "")), table
        assert len(lines) > 2, table


def snippets(text: str) -> dict[str, str]:
    found = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    return {re.findall(r"from (\S+) import", code)[0]: code for code in found}


def execute(code: str) -> tuple[str, dict[str, Any]]:
    """What a snippet prints and the names that it leaves: what a reader of the card does with it."""
    printed = io.StringIO()
    namespace: dict[str, Any] = {}
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue(), namespace
