from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from stpipe.config.errors import DataError
from stpipe.data.labels import detect_format, encode_labels
from stpipe.data.table import RawTable, Span


def raw_of(values: Any, *, text_numbers: bool = False, **keys: Any) -> RawTable:
    table = pa.table({"y": pa.array(values)})
    return RawTable(table, [Span("rows.jsonl", len(values))], text_numbers=text_numbers, **keys)


@pytest.mark.parametrize(
    ("roles", "values", "expected"),
    [
        (["anchor"], None, "text"),
        (["anchor"], [1, 2], "labelled-text"),
        (["anchor"], ["x", "y"], "labelled-text"),
        (["anchor"], [[0.1, 0.2], [0.3, 0.4]], "text-vector"),
        (["anchor", "positive"], None, "pair"),
        (["anchor", "positive"], [0.5, 1.0], "pair-score"),
        (["anchor", "positive"], [0, 1], "pair-class"),
        (["anchor", "positive"], ["yes", "no"], "pair-class"),
        (["anchor", "positive"], [[0.1], [0.2]], "pair-vector"),
        (["anchor", "positive", "negative_1"], None, "triplet"),
        (["anchor", "positive", "negative_1", "negative_2"], None, "n-tuple"),
        (["anchor", "positive", "negative_1"], [0.5, -1.0], "triplet-score"),
        (["anchor", "positive", "negative_1"], [1, -2], "triplet-score"),
        (["anchor", "positive", "negative_1"], [[0.5], [1.0]], "n-tuple-scores"),
        (["anchor", "positive", "negative_1", "negative_2"], [[0.5, 1.0], [1.0, 0.0]], "n-tuple-scores"),
        (["query", "document"], [0, 1], "query-document"),
        (["query", "document"], [0.5, 1.0], "query-document"),
        (["query", "documents"], [[0.5, 1.0], [1.0]], "query-documents"),
        (["query", "documents"], [[0, 1], [1]], "query-documents"),
    ],
)
def test_roles_and_label_make_the_format(roles: list[str], values: Any, expected: str) -> None:
    raw = raw_of([0, 0] if values is None else values)
    assert detect_format(roles, None if values is None else raw.table["y"], None, raw=raw).name == expected


@pytest.mark.parametrize(("values", "expected"), [(["0", "1"], "pair-class"), (["0.5", "1"], "pair-score"), (["a", "1"], "pair-class")])
def test_labels_of_text_files_are_numbers_where_they_can_be(values: list[str], expected: str) -> None:
    raw = raw_of(values, text_numbers=True)
    assert detect_format(["anchor", "positive"], raw.table["y"], None, raw=raw).name == expected


@pytest.mark.parametrize(
    ("roles", "values", "explicit"),
    [
        (["anchor", "positive", "negative_1", "negative_2"], [1.0, 2.0], None),
        (["anchor", "positive", "negative_1"], ["a", "b"], None),
        (["anchor", "positive"], [[1.0], [2.0]], "n-tuple-scores"),
        (["anchor", "positive", "negative_1", "negative_2"], [1.0, 2.0], "triplet-score"),
        (["query", "positive"], None, None),
        (["query", "document"], ["a", "b"], None),
        (["anchor", "positive"], None, "triplet"),
        (["anchor", "positive"], None, "pair-score"),
        (["query", "document"], [1.0, 2.0], "pair-score"),
    ],
)
def test_what_makes_no_format_is_an_error(roles: list[str], values: Any, explicit: str | None) -> None:
    raw = raw_of([0, 0] if values is None else values)
    with pytest.raises(DataError, match="rows.jsonl"):
        detect_format(roles, None if values is None else raw.table["y"], explicit, raw=raw)


@pytest.mark.parametrize(("roles", "expected"), [(["anchor"], "text-vector"), (["anchor", "positive", "negative_1"], "n-tuple-scores")])
def test_lists_of_text_files_are_json(roles: list[str], expected: str) -> None:
    raw = raw_of(["", " [1, 0.5] ", "[2e-1,-3]"], text_numbers=True)
    fmt = detect_format(roles, raw.table["y"], None, raw=raw)
    assert fmt.name == expected and fmt.label is not None
    labels = encode_labels(raw.table["y"], fmt.label, raw=raw, column="y")
    assert labels.missing.tolist() == [True, False, False]
    np.testing.assert_allclose(labels.values, [1, 0.5, 0.2, -3], rtol=1e-6)
    assert labels.offsets is not None and labels.offsets.tolist() == [0, 0, 2, 4]


@pytest.mark.parametrize("cell", ["[1, 2", "7", '["1", "2"]', "[true, 1]", "{}", "[[1]]"])
def test_a_cell_that_is_no_list_is_named(cell: str) -> None:
    raw = raw_of(["[1, 2]", cell], text_numbers=True)
    with pytest.raises(DataError, match=r"rows.jsonl row 1, column 'y': found .*, expected a list of numbers as JSON"):
        encode_labels(raw.table["y"], "scores", raw=raw, column="y")


def test_names_are_numbered_in_sorted_order_and_known_ones_keep_theirs() -> None:
    raw = raw_of(["b", "a", None, "c"])
    first = encode_labels(raw.table["y"], "class", raw=raw, column="y")
    assert (first.values.tolist(), first.missing.tolist(), first.classes) == ([1, 0, -1, 2], [False, False, True, False], ("a", "b", "c"))
    later = raw_of(["d", "aa", "c"])
    second = encode_labels(later.table["y"], "class", raw=later, column="y", known=first.classes or ())
    assert (second.values.tolist(), second.classes) == ([4, 3, 2], ("a", "b", "c", "aa", "d"))


def test_integer_classes_keep_their_numbers_and_negative_ones_are_missing() -> None:
    raw = raw_of([3, -1, 0], class_names={"y": ["no", "maybe", "so", "yes"]})
    labels = encode_labels(raw.table["y"], "class", raw=raw, column="y")
    assert (labels.values.tolist(), labels.missing.tolist()) == ([3, -1, 0], [False, True, False])
    assert labels.classes == ("no", "maybe", "so", "yes")


def test_booleans_are_classes_and_scores() -> None:
    raw = raw_of([True, False])
    assert encode_labels(raw.table["y"], "class", raw=raw, column="y").values.tolist() == [1, 0]
    assert encode_labels(raw.table["y"], "score", raw=raw, column="y").values.tolist() == [1.0, 0.0]


def test_lists_stay_ragged_and_rows_can_be_taken() -> None:
    raw = raw_of([[0.5, 1.0], [2.0], [3.0, 4.0, 5.0]])
    labels = encode_labels(raw.table["y"], "scores", raw=raw, column="y").take(np.array([2, 0]))
    assert labels.values.tolist() == [3.0, 4.0, 5.0, 0.5, 1.0]
    assert labels.offsets is not None and labels.offsets.tolist() == [0, 3, 5]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["1", "x"], "score", "row 1, column 'y': found 'x', expected a number"),
        ([1.0, float("inf")], "score", "row 1, column 'y': found .*inf.*, expected a finite number"),
        ([1.0, 0.5], "class", "row 1, column 'y': found .*0.5.*, expected a class"),
        ([[1.0], [float("nan")]], "scores", "row 1, column 'y': found .*nan.*, expected a list of finite numbers"),
        ([[1.0, 2.0], [1.0]], "vector", "row 1, column 'y': found 'a list of 1 numbers', expected 2 numbers"),
        ([1.0, 2.0], "scores", "row 0, column 'y': found 1.0, expected a list of numbers"),
    ],
)
def test_a_bad_label_is_named(values: Any, kind: str, expected: str) -> None:
    raw = raw_of(values)
    with pytest.raises(DataError, match=expected):
        encode_labels(raw.table["y"], kind, raw=raw, column="y")
