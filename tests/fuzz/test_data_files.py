"""A few hundred hostile files in every run of the tests; scripts/fuzz.py tries ten thousand."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from stpipe.config.errors import DataError
from tests.fuzz.data_files import File, check_collection, check_file, collections, encode, files, guarded
from tests.fuzz.limits import HangError, fuzz, in_time

ROWS = [{"anchor": "red", "positive": "stone"}, {"anchor": "a small house", "positive": "blue stone"}, {"anchor": "x", "positive": "y"}]


def test_hostile_data_files() -> None:
    fuzz(check_file, files(), 150)


def test_hostile_test_collections() -> None:
    fuzz(check_collection, collections(), 80)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv", ".csv.gz", ".parquet"])
def test_the_unharmed_rows_are_read(suffix: str) -> None:
    """So that the cases above are not all refused at the door."""
    check_file(File(suffix, encode(ROWS, suffix)))
    with pytest.raises(AssertionError, match="names no file"):
        guarded(lambda: (_ for _ in ()).throw(DataError("something is wrong")), "rows.jsonl")


def test_what_hangs_is_found() -> None:
    with pytest.raises(HangError, match="for ever"), in_time(lambda: "for ever", seconds=0.1):
        time.sleep(30)


def test_a_deep_file_and_a_bomb_of_gzip_are_refused(tmp_path: Path) -> None:
    for name, content in (("deep.jsonl", b'{"anchor": ' + b"[" * 100_000 + b"\n"), ("deep.json", b"[" * 100_000)):
        (tmp_path / name).write_bytes(content)
        check_file(File("." + name.rpartition(".")[2], content))
    cut = encode(ROWS * 50, ".jsonl.gz")[:-20]
    check_file(File(".jsonl.gz", cut))
    check_file(File(".json", json.dumps({"anchor": [[[["x"]]]], "positive": ["y"]}).encode()))
