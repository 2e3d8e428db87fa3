from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from stpipe.data.table import RawTable, Span


def raw(columns: dict[str, Any]) -> RawTable:
    table = pa.table(columns)
    return RawTable(table, [Span("rows.jsonl", table.num_rows)])


def test_records_and_lists_of_records_become_a_column_a_field() -> None:
    found = raw(
        {
            "query": ["a", "b", "c"],
            "passages": [{"text": ["x", "y"], "selected": [1, 0]}, None, {"text": [], "selected": []}],
            "documents": [[{"text": "x", "info": {"grade": 2}}, {"text": "y", "info": {"grade": 0}}], None, []],
        }
    ).flattened()
    assert found.table.to_pydict() == {
        "query": ["a", "b", "c"],
        "passages.text": [["x", "y"], None, []],
        "passages.selected": [[1, 0], None, []],
        "documents.text": [["x", "y"], None, []],
        "documents.info.grade": [[2, 0], None, []],
    }
    assert found.origin == "rows.jsonl"


def test_a_slice_keeps_its_rows() -> None:
    table = pa.table({"docs": [[{"text": "a"}], [{"text": "b"}, {"text": "c"}], [{"text": "d"}]]}).slice(1, 2)
    found = RawTable(table, [Span("x", 2)]).flattened()
    assert found.table.to_pydict() == {"docs.text": [["b", "c"], ["d"]]}


def test_plain_columns_are_left_alone() -> None:
    table = raw({"a": ["x"], "b": [["y"]]})
    assert table.flattened() is table


def test_fields_of_records_play_roles(run_prepare: Any, write_jsonl: Callable[..., str]) -> None:
    rows = [{"query": f"q{i}", "passages": {"passage_text": [f"p{i}", f"r{i}"], "is_selected": [1, 0]}} for i in range(4)]
    columns = {"query": "query", "documents": "passages.passage_text", "label": "passages.is_selected"}
    source = run_prepare(train=write_jsonl(rows), columns=columns).train["default"]
    assert source.format.name == "query-documents"
    assert [list(d) for d in source.rows().columns["documents"]] == [[f"p{i}", f"r{i}"] for i in range(4)]
    assert source.rows().labels == [[1.0, 0.0]] * 4


@pytest.mark.parametrize("empty", [[], [None]])
def test_records_without_any_row(empty: list[Any]) -> None:
    table = pa.table({"docs": pa.array(empty, pa.list_(pa.struct([("text", pa.string())])))})
    assert RawTable(table, [Span("x", len(empty))]).flattened().table.to_pydict() == {"docs.text": empty}
