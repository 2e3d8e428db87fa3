from __future__ import annotations

import os
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.config.file_names import LONGEST, file_name, name_problem, same_file

HOSTILE = [
    "",
    ".",
    "..",
    "../../x",
    "..\\..\\x",
    "/etc/passwd",
    "C:\\x",
    "C:x",
    "a/b",
    "a\x00b",
    "a\nb",
    "x" * 300,
    "\u65e5" * 100,
    "\u202etxt.exe",
    "\ud800",
    "con",
    "NUL.txt",
    "com1",
    "LPT9.a.b",
    "-rf",
    "~root",
    ".hidden",
    "ends.",
    "ends ",
    " begins",
    "what?",
    "a*b",
    'q"q',
    "a|b",
    "<x>",
]
PLAIN = ["dev", "nano_beir", "a-b.c", "v1.2", "d\u00e9j\u00e0", "\u65e5\u672c\u8a9e", "two words", "console", "com10", "x" * LONGEST]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_become_one_safe_part(name: str, tmp_path: Path) -> None:
    assert name_problem(name)
    made = file_name(name)
    assert name_problem(made) is None and made == file_name(name)
    folder = tmp_path / "inside" / made
    folder.mkdir(parents=True)
    assert os.listdir(tmp_path / "inside") == [made] and folder.resolve().parent == (tmp_path / "inside").resolve()


@pytest.mark.parametrize("name", PLAIN)
def test_good_names_stay(name: str, tmp_path: Path) -> None:
    assert name_problem(name) is None and file_name(name) == name
    (tmp_path / name).write_text("x")


def test_different_names_are_different_files() -> None:
    names = [*HOSTILE, *PLAIN, *(f"../{c}" for c in string.printable)]
    assert len({same_file(file_name(name)) for name in names}) == len(set(names))


def test_what_disks_take_for_one() -> None:
    assert same_file("Dev") == same_file("dev") and same_file("e\u0301") == same_file("\u00e9")
    assert same_file("dev") != same_file("dev2")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=200) | st.text(alphabet="./\\:con\x00 ~", max_size=8))
def test_any_text_becomes_a_name(name: str) -> None:
    made = file_name(name)
    assert name_problem(made) is None
    assert Path("a", made).parts == ("a", made) and ".." not in Path(made).parts
