"""Columns of texts, held-out rows in a format of their own, and directories that `stpipe mine` wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stpipe.config.errors import DataError
from stpipe.config.sections import DatasetSection
from stpipe.core.tokenize import RoleTokenizer
from stpipe.data.corpus import read_texts
from stpipe.data.prepare import PreparedData, prepare, read_splits
from stpipe.data.sources import SourceRequest, open_source
from tests.models.tiny import make_tokenizer


def request(path: Path) -> SourceRequest:
    return SourceRequest(str(path), "mine.corpus")


def prepared(tmp_path: Path, **keys: object) -> PreparedData:
    tokenizer = make_tokenizer()
    section = DatasetSection(cache_dir=str(tmp_path / "cache"), **keys)  # type: ignore[arg-type]
    return prepare(section, tokenizers=lambda role, routes: RoleTokenizer(tokenizer))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            [{"text": "w1", "title": "x"}, {"text": None, "title": "y"}, {"text": " ", "title": "z"}, {"text": "w2", "title": ""}],
            ["w1", "w2"],
        ),
        ([{"passage": "w1", "id": 3}, {"passage": "w2", "id": 4}], ["w1", "w2"]),
    ],
)
def test_the_column_text_or_the_only_one(tmp_path: Path, rows: list[dict[str, object]], expected: list[str]) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_texts(request(path)) == expected


def test_several_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(json.dumps({"a": "w1", "b": "w2"}) + "\n")
    with pytest.raises(DataError, match=r"mine\.corpus: .* has the columns a, b; expected a column `text`"):
        read_texts(request(path))


def written(folder: Path) -> Path:
    """What `stpipe mine` leaves for a reranker."""
    folder.mkdir()
    train = {"query": ["w1", "w1", "w2", "w2"], "document": ["w3", "w4", "w5", "w6"], "label": [1, 0, 1, 0]}
    held_out = {"query": ["w7", "w1"], "documents": [["w8", "w9"], ["w5", "w4"]], "labels": [[0, 1], [1, 0]]}
    pq.write_table(pa.table(train), folder / "train.parquet")
    pq.write_table(pa.table(held_out), folder / "eval.parquet")
    (folder / "mine.json").write_text(json.dumps({"parts": {}}, indent=1))
    (folder / "mine.html").write_text("<p>")
    return folder


def test_the_report_beside_the_data_is_no_data(tmp_path: Path) -> None:
    assert len(open_source(SourceRequest(str(written(tmp_path / "mined"))))) == 4


def test_held_out_rows_may_have_a_format_of_their_own(tmp_path: Path) -> None:
    folder = str(written(tmp_path / "mined"))
    keys = {"train": folder, "eval": folder, "format": "query-document", "max_length": {"query": 5, "documents": 6}}
    data = prepared(tmp_path, eval_format="query-documents", checks=DatasetSection().checks, **keys)
    assert data.train["default"].format.name == "query-document" and data.eval["default"].format.name == "query-documents"
    assert data.eval["default"].max_lengths == {"query": 5, "documents": 6}
    assert "2 rows (50.0%) whose query or pair also occurs in the held-out data" in "\n".join(data.scan.warnings)
    with pytest.raises(DataError, match=r"name it in dataset\.eval_format|needs query, document"):
        prepared(tmp_path, **keys)


def test_splits_are_those_that_prepare_takes(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"anchor": f"w{i}", "positive": f"w{i + 1}"}) + "\n" for i in range(30)))
    section = DatasetSection(train=str(path), eval_rows=6, max_rows=20, cache_dir=str(tmp_path / "cache"))
    splits = read_splits(section)["default"]
    data = prepared(tmp_path, train=str(path), eval_rows=6, max_rows=20)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 20, "eval": 6}
    for name, source in (("train", data.train["default"]), ("eval", data.eval["default"])):
        rows = splits[name].texts
        assert rows.texts.take(pa.array(rows.roles["anchor"].index)).to_pylist() == list(source.rows().columns["anchor"])
