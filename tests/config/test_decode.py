from __future__ import annotations

import pytest

from stpipe.config.decode import decode
from stpipe.config.errors import ConfigError
from stpipe.config.origins import UNRESOLVED, Origins
from tests.config.toy import toy_schema

GOOD = {"shape": {"name": "circle"}}
SCHEMA = toy_schema()


def problems(**values):
    with pytest.raises(ConfigError) as caught:
        decode({**GOOD, **values}, SCHEMA)
    return {p.key: p.message for p in caught.value.problems}


def test_defaults_are_filled_in_at_every_depth():
    decoded = decode({"shape": {"name": "frame", "shape": {"name": "Circle", "radius": 2}}}, SCHEMA)
    assert decoded["shape"] == {"name": "frame", "shape": {"name": "circle", "radius": 2.0}, "width": 1}
    assert decoded["size"] == {"height": 3, "unit": "px"}
    assert decoded["points"] == [0.0, 1.0]
    assert decoded["mode"] is None
    assert isinstance(decoded["shape"]["shape"]["radius"], float)


def test_maps_of_the_user_take_any_key():
    decoded = decode({**GOOD, "names": {"anything": "x"}, "layers": {"mine": {"name": "circle"}}}, SCHEMA)
    assert decoded["names"] == {"anything": "x"}
    assert decoded["layers"]["mine"]["radius"] == 1.0


@pytest.mark.parametrize(
    ("values", "key", "parts"),
    [
        ({"shappe": 1}, "shappe", ["unknown key", "Did you mean 'shape'?", "Keys: shape, size"]),
        ({"size": {"height": 1, "unti": "px"}}, "size.unti", ["unknown key", "'unit'"]),
        ({"shape": {"name": "circle", "raduis": 1}}, "shape.raduis", ["unknown key of shape 'circle'", "'radius'", "Keys: name, radius"]),
        ({"shape": {"name": "cirle"}}, "shape.name", ["unknown shape 'cirle'", "'circle'", "Known: circle, frame"]),
        ({"shape": {"name": "circle", "radius": 0}}, "shape.radius", ["a number > 0", "found 0"]),
        ({"shape": {"name": "circle", "radius": "2"}}, "shape.radius", ["a number > 0", "'2' (text)", "Remove the quotes"]),
        ({"shape": {"name": "circle", "radius": True}}, "shape.radius", ["a number", "true or false"]),
        ({"shape": {"name": "circle", "radius": float("nan")}}, "shape.radius", ["a number > 0"]),
        ({"shape": {"name": "frame", "shape": {"name": "circle"}, "width": 10}}, "shape.width", [">= 1 and <= 9", "found 10"]),
        ({"shape": {"name": "frame", "shape": {"name": "circle"}, "width": 2.0}}, "shape.width", ["an integer", "Write 2"]),
        ({"shape": {"name": "frame"}}, "shape.shape", ["required key is missing", "What is inside"]),
        ({"shape": {"nmae": "circle"}}, "shape", ["required key 'name' is missing", "'nmae'"]),
        ({"shape": "circle"}, "shape", ["{name: circle}", "found 'circle'"]),
        ({"shape": None}, "shape", ["a mapping that names a shape"]),
        ({"size": {"height": 1, "unit": "pxx"}}, "size.unit", ["one of px, cm", "Did you mean 'px'?"]),
        ({"size": {}}, "size.height", ["required key is missing: Rows."]),
        ({"size": 3}, "size", ["a mapping", "found 3"]),
        ({"points": [0.5, -1]}, "points[1]", [">= 0", "found -1"]),
        ({"points": 3}, "points", ["a list"]),
        ({"place": [1]}, "place", ["expected 2 values, found 1"]),
        ({"mode": [1]}, "mode[0]", ["text", "found 1"]),
        ({"mode": 3}, "mode", ["text or a list or null"]),
        ({"share": 2}, "share", [">= 0 and <= 1"]),
        ({"flag": "yes"}, "flag", ["true or false", "'yes'"]),
        ({"flag": 1}, "flag", ["true or false"]),
        ({"flag": None}, "flag", ["true or false", "null"]),
        ({"layers": {"mine": {"name": "x"}}}, "layers.mine.name", ["unknown shape"]),
        ({"names": {"a": 1}}, "names.a", ["text"]),
        ({"share": "???"}, "share", ["must be given"]),
    ],
)
def test_each_mistake_is_named_with_its_key(values, key, parts):
    found = problems(**values)
    assert list(found) == [key]
    for part in parts:
        assert part in found[key]


def test_all_problems_are_reported_at_once():
    found = problems(shpe=1, flag=3, points=[-1], size={"unit": "m"})
    assert set(found) == {"shpe", "flag", "points[0]", "size.height", "size.unit"}


def test_missing_root_key():
    with pytest.raises(ConfigError, match="shape: required key is missing"):
        decode({}, SCHEMA)


def test_a_misspelt_required_key_is_one_problem():
    with pytest.raises(ConfigError) as caught:
        decode({"shpae": {"name": "circle"}}, SCHEMA)
    assert [p.key for p in caught.value.problems] == ["shpae"]


def test_origins_are_named_and_the_environment_is_not_shown():
    origins = Origins({("share",): "a.yaml:3"}, {("share",): "${oc.env:SECRET}"})
    with pytest.raises(ConfigError) as caught:
        decode({**GOOD, "share": "hunter2"}, SCHEMA, origins)
    text = str(caught.value)
    assert "[a.yaml:3]" in text
    assert "${oc.decode:${oc.env:SECRET}}" in text
    assert "hunter2" not in text


def test_failed_interpolations_are_left_to_their_own_problem():
    assert decode({**GOOD, "share": UNRESOLVED, "shape": {"name": UNRESOLVED}}, SCHEMA)["share"] is UNRESOLVED


def test_key_of_another_section_is_found_there():
    from stpipe.config.schema import load_schema

    with pytest.raises(ConfigError) as caught:
        decode({"batch_size": 3, "trainer": {"lr": 1}, "model": {"name": "dense", "name_or_path": "x"}}, load_schema())
    text = {p.key: p.message for p in caught.value.problems}
    assert "Did you mean 'dataset.batch_size'?" in text["batch_size"] or "Did you mean 'trainer.batch_size'?" in text["batch_size"]
    assert "Did you mean 'optimizer.lr'?" in text["trainer.lr"]
