"""Reading files in parts: the same rows as at once, from any place, with the places of errors."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stpipe.config.errors import DataError
from stpipe.data.sources import SourceRequest
from stpipe.data.sources.files import read_file
from stpipe.data.sources.readers import open_file
from stpipe.data.sources.shards import HubShard, _hub, open_shards
from stpipe.data.table import concatenate

ROWS = [{"anchor": f"a {i}", "positive": f'one\ntwo {i}, "three"'} for i in range(50)]


def write(folder: Path, kind: str) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=7)
    elif kind.startswith("jsonl"):
        text = "".join(json.dumps(row) + "\n\n" for row in ROWS)
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(ROWS)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "tsv", "parquet"])
def test_parts_are_the_whole_and_begin_anywhere(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    reader, parts, places = open_file(path, {}), [], []
    while not parts or len(parts[-1]):
        places.append(json.loads(json.dumps(reader.place)))
        parts.append(reader.take(9))
    whole, joined = read_file(path), concatenate(parts[:-1])
    assert joined.table.to_pylist() == whole.table.to_pylist() == ROWS
    assert [joined.place(i) for i in range(50)] == [whole.place(i) for i in range(50)]
    assert len(places) == 7 and len(reader.take(3)) == 0
    for number, place in enumerate(places):
        again = open_file(path, place).take(9)
        assert again.table.to_pylist() == ROWS[9 * number : 9 * number + 9]
        assert [again.place(i) for i in range(len(again))] == [whole.place(9 * number + i) for i in range(len(again))]


BAD = [
    ("jsonl", '{"anchor": "a"}\n{"anchor": "b"}\n{"anchor": }\n', "line 3"),
    ("jsonl", '{"anchor": "a"}\n[1]\n', "line 2"),
    ("csv", "anchor,positive\na,b\n\nc\n", "line 4: found 1 fields"),
    ("csv", "anchor,anchor\na,b\n", "line 1: found header"),
    ("csv", 'anchor,positive\na,b\n"c\n', "line 3"),
]


@pytest.mark.parametrize(("kind", "text", "found"), BAD)
def test_a_bad_row_is_named(tmp_path: Path, kind: str, text: str, found: str) -> None:
    path = tmp_path / f"bad.{kind}"
    path.write_text(text)

    def read_on() -> None:
        reader = open_file(path, {})
        while len(reader.take(1)):
            pass

    with pytest.raises(DataError, match=f"bad.{kind} {found}"):
        read_on()


def test_damaged_files_are_named(tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(write(tmp_path, "jsonl.gz").read_bytes()[:-60])
    with pytest.raises(DataError, match="cut.jsonl.gz: found damaged gzip data after line"):
        open_file(cut, {}).take(100)
    none = tmp_path / "none.parquet"
    none.write_bytes(b"no parquet")
    with pytest.raises(DataError, match="none.parquet: expected a parquet file"):
        open_file(none, {})


def test_files_are_shards_and_their_ends_tell_them_apart(tmp_path: Path) -> None:
    for name in ("train-1.jsonl", "train-0.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps({**row, "positive": "x" * 3000}) + "\n" for row in ROWS))
    shards = open_shards(SourceRequest(str(tmp_path)))
    assert [path.name for path in shards.files()] == ["train-0.jsonl", "train-1.jsonl"]
    first = shards.fingerprint()
    last = tmp_path / "train-1.jsonl"
    last.write_text(last.read_text()[:-20] + "y" * 17 + '"}\n')
    assert open_shards(SourceRequest(str(tmp_path))).fingerprint() != first


def test_one_document_is_refused_and_lines_are_not(tmp_path: Path) -> None:
    document, lines = tmp_path / "document.json", tmp_path / "lines.json"
    document.write_text(json.dumps(ROWS))
    lines.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with pytest.raises(DataError, match="one JSON document, which can only be read whole.*streaming=false"):
        open_shards(SourceRequest(str(document)))
    assert open_shards(SourceRequest(str(lines))).parts[0].open({}).take(99).table.to_pylist() == ROWS


def test_hub_shards_begin_anywhere(tmp_path: Path) -> None:
    """`datasets` in streaming mode, on files of this machine: it reads those of the Hub in the same way."""
    for k in range(3):
        (tmp_path / f"train-{k}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[10 * k : 10 * k + 10]))
    shards = _hub(SourceRequest(str(tmp_path)))
    assert len(shards.parts) == 3 and all(isinstance(part, HubShard) for part in shards.parts)
    seen: list[Any] = []
    for number, shard in enumerate(shards.parts):
        reader, places, found = shard.open({}), [], []
        while not found or len(found[-1]):
            places.append(json.loads(json.dumps(reader.place)))
            found.append(reader.take(4))
        for k, place in enumerate(places[:-1]):
            assert shard.open(place).take(4).table.to_pylist() == found[k].table.to_pylist() != []
        assert found[1].place(1).endswith(f"shard {number + 1} of 3 row 5")
        seen += concatenate(found[:-1]).table.to_pylist()
    assert seen == ROWS[:30]
