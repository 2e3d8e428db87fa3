"""Files of parallel sentences: which pairs they give, and what is said of a line that gives none."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from stpipe.config.errors import ConfigError, DataError
from stpipe.data.sources import SourceRequest, open_source
from stpipe.data.table import RawTable

LINES = 'hello world\thallo welt\thola mundo\n\nhe said "no"\t\tdijo "no"\n a third \tein dritter\t\r\n'
PAIRS = [
    ("hello world", "hallo welt"),
    ("hello world", "hola mundo"),
    ('he said "no"', 'dijo "no"'),
    ("a third", "ein dritter"),
]


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def read(address: str, **keys: object) -> RawTable:
    return open_source(SourceRequest(address, **keys))  # type: ignore[arg-type]


def pairs_of(table: RawTable) -> list[tuple[str, str]]:
    return list(zip(table.table["anchor"].to_pylist(), table.table["positive"].to_pylist(), strict=True))


@pytest.mark.parametrize("name", ["talks.tsv", "talks.txt.gz"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_every_translation_is_a_pair_with_its_source(tmp_path: Path, name: str, mark: str) -> None:
    """Quotes mean nothing, empty fields are languages without a translation, and the line of each pair is known."""
    path = write(tmp_path / name, mark + LINES)
    table = read(f"parallel://{path}")
    assert pairs_of(table) == PAIRS
    assert [table.place(i) for i in range(4)] == [f"{path} line {n}" for n in (1, 1, 3, 4)]
    assert table.left_out == {} and not table.text_numbers


def test_several_files(tmp_path: Path) -> None:
    write(tmp_path / "en-de.tsv", "b\td\n")
    write(tmp_path / "en-es.tsv.gz", "a\tc\n")
    table = read(f"parallel://{tmp_path}/*.tsv*")
    assert pairs_of(table) == [("b", "d"), ("a", "c")] and table.place(1) == f"{tmp_path / 'en-es.tsv.gz'} line 1"


def test_lines_with_a_long_text_are_left_out_and_counted(tmp_path: Path) -> None:
    """As in the documentation, the whole line, whichever of its texts is long."""
    path = write(tmp_path / "a.tsv", "123456\t1\t2\n12345\tab\n12\t123456\n")
    table = read(f"parallel://{path}?max_characters=5")
    assert pairs_of(table) == [("12345", "ab")]
    assert table.left_out == {"of lines with a text of more than 5 characters": 3}
    assert len(read(f"parallel://{path}")) == 4


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a\tb\nalone\n", ["line 2", "found 'alone'", "at least one translation"]),
        ("a\tb\n\tb\n", ["line 2", "expected a sentence"]),
        ("a\t\t \n", ["line 1", "at least one translation"]),
        (b"a\tb\n\xff\tb\n", ["line 2", "Expected UTF-8"]),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, content: str | bytes, expected: list[str]) -> None:
    path = write(tmp_path / "a.tsv", content)
    with pytest.raises(DataError) as caught:
        read(f"parallel://{path}")
    for part in [str(path), *expected]:
        assert part in str(caught.value)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    whole = gzip.compress("".join(f"source {i}\ttarget {i}\n" for i in range(3000)).encode())
    (tmp_path / "a.tsv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged gzip data after line"):
        read(f"parallel://{tmp_path}/a.tsv.gz")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("parallel://nowhere/a.tsv", "there is no file or directory"),
        ("parallel://nowhere/*.tsv", "no file matches"),
        ("parallel://", "there is no path; write parallel://PATH"),
        ("parallel://a.tsv?max_character=3", "unknown option 'max_character'. Known: max_characters"),
        ("parallel://a.tsv?max_characters=0", "option max_characters=0: expected a whole number"),
        ("parallel://.", "is a directory; name its files"),
    ],
)
def test_what_is_not_there(address: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(address)
    assert caught.value.exit_code == 2 and expected in str(caught.value) and address in str(caught.value)
