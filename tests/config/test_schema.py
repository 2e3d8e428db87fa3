from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from stpipe.config.formats import FORMATS
from stpipe.config.locations import schema_file
from stpipe.config.registry import REGISTRIES
from stpipe.config.schema import SchemaBuilder, component, load_schema, members, to_plain
from tests.config.toy import SHAPES, Circle, Frame, Picture, toy_schema


def test_stored_schema_is_current():
    """Made in a process of its own: other tests register components of a user in this one."""
    make = "from stpipe.config import builtin, schema; builtin.load_components(); print(schema.dump_schema(schema.build_schema()), end='')"
    made = subprocess.run([sys.executable, "-c", make], capture_output=True, text=True, encoding="utf-8", check=True).stdout
    assert len(made) > 100_000
    assert schema_file().read_text(encoding="utf-8") == made, "run scripts/make_schema.py"


def test_annotations_become_keywords():
    properties = toy_schema()["properties"]
    assert properties["points"]["items"] == {"type": "number", "minimum": 0}
    assert properties["points"]["default"] == [0.0, 1.0]
    assert properties["place"]["prefixItems"] == [{"type": "integer"}, {"type": "integer"}]
    assert properties["share"]["anyOf"] == [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}]
    assert properties["names"]["additionalProperties"] == {"type": "string"}
    assert properties["layers"]["additionalProperties"] == {"$ref": "#/$defs/shape"}
    assert properties["extra"]["anyOf"] == [{"$ref": "#/$defs/shape"}, {"type": "null"}]
    assert properties["flag"] == {"type": "boolean", "description": "Yes or no.", "default": False}


def test_component_definitions_carry_names_and_facts():
    schema = toy_schema()
    circle = schema["$defs"]["shape.circle"]
    assert circle["x-aliases"] == ["Circle"]
    assert circle["x-corners"] == 0
    assert circle["additionalProperties"] is False
    assert component(schema, "shape", "Circle") is circle
    assert component(schema, "shape", "square") is None
    assert [d["x-name"] for d in members(schema, "shape")] == ["circle", "frame"]
    assert schema["$defs"]["shape.frame"]["required"] == ["name", "shape"]


def test_field_without_help_is_refused():
    from dataclasses import make_dataclass

    bare = make_dataclass("Bare", [("x", int, 1)])
    with pytest.raises(TypeError, match=r"Bare\.x must be declared with option"):
        SchemaBuilder({"shape": SHAPES}).root(bare)


def test_defaults_that_are_components_become_mappings():
    assert to_plain({"a": (Circle(2.0), [1])}) == {"a": [{"radius": 2.0}, [1]]}  # toy registry is not among REGISTRIES
    assert to_plain(Picture(Frame(Circle())).size) == {"height": 3, "unit": "px"}


def test_stored_schema_is_json_schema_and_complete():
    schema = json.loads(schema_file().read_text(encoding="utf-8"))
    assert schema["$schema"].endswith("2020-12/schema")
    references = _references(schema)
    assert len(references) > 50
    assert all(ref.removeprefix("#/$defs/") in schema["$defs"] for ref in references)
    for group in REGISTRIES:
        assert schema["$defs"][group]["x-component"] == group
    for group in ("model", "loss", "sampler", "evaluator", "optimizer", "scheduler", "strategy", "backend"):
        assert members(schema, group), f"no {group} is registered"
    assert load_schema() == schema


def _references(node):
    found = [node["$ref"]] if isinstance(node, dict) and "$ref" in node else []
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        found += _references(inner)
    return found


def test_every_format_can_be_asked_for():
    offered = next(
        option["enum"] for option in load_schema()["$defs"]["SourceSection"]["properties"]["format"]["anyOf"] if "enum" in option
    )
    assert sorted(offered) == sorted(FORMATS)


def test_every_key_is_documented():
    schema = load_schema()
    objects = [schema, *schema["$defs"].values()]
    texts = [(name, p.get("description")) for o in objects for name, p in o.get("properties", {}).items()]
    assert len(texts) > 150
    assert not [name for name, text in texts if not text]


def test_reference_is_current(repository):
    path = repository / "scripts" / "make_reference.py"
    spec = importlib.util.spec_from_file_location("make_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.reference(load_schema())
    assert (repository / "docs" / "reference.md").read_text(encoding="utf-8") == text, "run scripts/make_reference.py"
    for part in ("| `trainer.best_metric` |", "### `loss=mnrl`", "`MultipleNegativesRankingLoss`", "### `dataset.checks`"):
        assert part in text
