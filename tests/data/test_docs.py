"""The guide's YAML is composed of keys and names that exist."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

import stpipe.data
import stpipe.losses  # noqa: F401  (registers the losses)
from stpipe.config.formats import FORMATS, is_role
from stpipe.config.registry import LOSSES, SAMPLERS
from stpipe.config.sections import CheckSection, DatasetSection, SourceSection

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)]


def names(cls: type) -> set[str]:
    return {f.name for f in dataclasses.fields(cls)}


@pytest.mark.parametrize("block", BLOCKS)
def test_yaml_of_the_guide(block: dict[str, dict]) -> None:
    assert set(block) <= {"dataset", "sampler", "loss"}
    dataset = block.get("dataset", {})
    assert set(dataset) <= names(DatasetSection)
    assert set(dataset.get("checks", {})) <= names(CheckSection)
    for source in dataset.get("sources", {}).values():
        assert set(source) <= names(SourceSection)
    for role in [*dataset.get("columns", {}), *dataset.get("joins", {}), *dataset.get("prompts", {}), *dataset.get("max_length", {})]:
        assert role == "default" or is_role(role)
    if "sampler" in block:
        sampler = SAMPLERS.get(block["sampler"].pop("name"))
        sampler(**block["sampler"])
    if "loss" in block:
        assert block["loss"]["name"] in LOSSES


def test_the_guide_names_every_format_sampler_and_rule() -> None:
    assert len(BLOCKS) >= 8
    for name in [*FORMATS, *names(CheckSection), "random", "no_duplicates", "group_by_label"]:
        assert f"`{name}`" in GUIDE, name
