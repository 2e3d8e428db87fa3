from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stpipe.config.errors import DataError
from stpipe.data.sources.files import read_file

ROWS = [{"anchor": "a\u00e9 one", "positive": "b, one", "label": 0.5}, {"anchor": "a two", "positive": 'b "two"', "label": 1.0}]


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", ["rows.jsonl", "list.json", "columns.json", "lines.json"])
def test_json_files_give_the_rows(tmp_path: Path, name: str, suffix: str) -> None:
    lines = "\n".join(json.dumps(r) for r in ROWS) + "\n\n"
    columns = json.dumps({k: [r[k] for r in ROWS] for k in ROWS[0]})
    content = {"rows.jsonl": lines, "list.json": json.dumps(ROWS), "columns.json": columns, "lines.json": lines}[name]
    assert read_file(write(tmp_path / (name + suffix), content)).table.to_pylist() == ROWS


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("name", "delimiter"), [("rows.csv", ","), ("rows.tsv", "\t")])
def test_delimited_files_give_text(tmp_path: Path, name: str, delimiter: str, suffix: str) -> None:
    content = (
        f'\ufeffanchor{delimiter}positive{delimiter}label\n"a, one"{delimiter}"line\nbreak"{delimiter}0.5\na two{delimiter}b{delimiter}1\n'
    )
    raw = read_file(write(tmp_path / (name + suffix), content))
    assert raw.table.to_pylist() == [
        {"anchor": "a, one", "positive": "line\nbreak", "label": "0.5"},
        {"anchor": "a two", "positive": "b", "label": "1"},
    ]
    assert raw.text_numbers
    assert raw.place(1).endswith("line 4")


def test_parquet_gives_the_rows(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    raw = read_file(tmp_path / "rows.parquet")
    assert raw.table.to_pylist() == ROWS
    assert raw.place(1) == f"{tmp_path / 'rows.parquet'} row 1"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '{"anchor": "x"}\n\n{"anchor": \n', ["line 3", "expected one JSON object"]),
        ("a.jsonl", '{"anchor": "x"}\n[1, 2]\n', ["line 2", "[1, 2]", "expected a JSON object"]),
        ("a.jsonl", '{"anchor": "x"}\n{"anchor": 3}\n', ["line 2", "column 'anchor'", "found 3", "expected string"]),
        ("a.jsonl", '{"anchor": "x"}\n{"anchor": "\\ud800"}\n', ["line 2", "column 'anchor'", "valid Unicode"]),
        ("a.jsonl", '{"documents": ["x"]}\n{"documents": ["y", 3]}\n', ["line 2", "column 'documents'", "found ['y', 3]", "expected list"]),
        ("a.jsonl", b'{"anchor": "x"}\n{"anchor": "\xff"}\n', ["line 2", "expected one JSON object"]),
        ("a.json", '[{"anchor": "x"}, 5]', ["row 1", "found 5", "expected a JSON object"]),
        ("a.json", '{"anchor": ["x"], "positive": ["y", "z"]}', ["different lengths"]),
        ("a.csv", "anchor,positive\nx,y\nx\n", ["line 3", "found 1 fields", "expected 2 (anchor, positive)"]),
        ("a.csv", 'anchor,positive\nx,"y\n', ["line 2", "cannot be read"]),
        ("a.csv", b"anchor,positive\nx,y\nx,\xff\n", ["cannot be read"]),
        ("a.csv", "anchor,anchor\nx,y\n", ["line 1", "header"]),
        ("a.parquet", "not parquet", ["expected a parquet file"]),
        ("a.xml", "<a/>", ["unknown type of file '.xml'", ".jsonl"]),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, name: str, content: str | bytes, expected: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        read_file(write(tmp_path / name, content))
    assert caught.value.exit_code == 3
    for part in [name, *expected]:
        assert part in str(caught.value)


def test_a_cut_gzip_file_is_named(tmp_path: Path) -> None:
    whole = gzip.compress("".join(json.dumps(r) + "\n" for r in ROWS * 500).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged gzip"):
        read_file(tmp_path / "a.jsonl.gz")


def test_a_missing_key_is_null(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"anchor": "x"}\n{"anchor": "y", "positive": "z"}\n')
    assert read_file(path).table.to_pylist() == [{"anchor": "x", "positive": None}, {"anchor": "y", "positive": "z"}]
