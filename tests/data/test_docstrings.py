from __future__ import annotations

import ast
import importlib.util
import linecache
import sys
from pathlib import Path
from types import ModuleType

import pytest

from stpipe.data import docstring_formats, docstrings
from stpipe.data.docstring_formats import FORMATTERS, Options, encloses, grade
from stpipe.data.docstrings import Pair, docstring_pairs, first_paragraph, library_fingerprint, library_modules, module_pairs, words
from stpipe.data.near_duplicates import first_of_near_duplicates

SOURCE = '''
"""Module."""

class Shelf:
    """A shelf that holds books in order."""

    def add(self, book):
        """Put a book on the shelf.

        Second paragraph.
        """
        self.books.append(book)
        return len(self.books)

    @property
    def first(self):
        "Return the first book."
        return self.books[0] if self.books else None

    def bare(self): "No body here at all."

# ------------------------------------------------
# Functions

def sort_books(books):
    """Sort the books
    by their titles."""
    def title(book):
        return book.title.lower()
    return sorted(books, key=title)

# ================================================

async def fetch(url):
    """Fetch a page of the catalogue."""
    return await client.get(url, timeout=10)
'''


@pytest.fixture(scope="module")
def whole() -> dict[str, list[Pair]]:
    return docstring_pairs()


def test_pairs_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "library.py").write_text(SOURCE)
    found = module_pairs("library", tmp_path / "library.py")
    assert [(p.name, p.section, p.query) for p in found] == [
        ("Shelf", "library:1", "A shelf that holds books in order."),
        ("add", "library.Shelf", "Put a book on the shelf."),
        ("first", "library.Shelf", "Return the first book."),
        ("sort_books", "library:2", "Sort the books by their titles."),
        ("fetch", "library:3", "Fetch a page of the catalogue."),
    ]
    by_name = {p.name: p.document for p in found}
    assert by_name["add"] == "def add(self, book):\n    self.books.append(book)\n    return len(self.books)"
    assert by_name["first"].startswith("@property\ndef first(self):\n    return")
    for text in ("holds books", "Put a book", "Second paragraph", "first book"):
        assert text not in by_name["Shelf"]
    assert "self.books.append(book)" in by_name["Shelf"]


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("One two three.\n\nMore.", "One two three."),
        ("  One two\n    three  four", "One two three four"),
        ("Short.", ""),
        (">>> a b c d", ""),
    ],
)
def test_first_paragraph(docstring: str, expected: str) -> None:
    assert first_paragraph(docstring) == expected


def test_words_split_identifiers() -> None:
    assert words("parse_HTTPHeader2 fooBar") == ["parse", "http", "header", "2", "foo", "bar"]


def test_only_the_library_itself_is_read() -> None:
    modules = [name for name, _ in library_modules()]
    assert len(modules) > 300 and {"json.decoder", "textwrap", "asyncio.tasks"} <= set(modules)
    assert len(set(modules)) == len(modules)
    tops = {name.split(".")[0] for name in modules}
    assert tops <= sys.stdlib_module_names and tops.isdisjoint({"test", "idlelib", "pytest", "numpy"})
    assert not any("site-packages" in str(path) or "/test" in str(path.parent) for _, path in library_modules())


def test_the_whole_library(whole: dict[str, list[Pair]]) -> None:
    train, test = whole["train"], whole["test"]
    assert len(train) > 4000 and 600 < len(test) < 1500
    assert {p.module for p in train}.isdisjoint(p.module for p in test)
    pairs = train + test
    assert len({p.query for p in pairs}) == len(pairs)
    assert first_of_near_duplicates([words(p.document) for p in pairs], threshold=0.9).mean() > 0.999
    assert all(p.query.strip() and p.document.strip() for p in pairs)
    for pair in pairs[::50]:
        assert pair.query not in pair.document
        ast.parse(pair.document)


def test_it_is_the_same_each_time(whole: dict[str, list[Pair]]) -> None:
    sample = dict(library_modules())
    modules = ["argparse", "json.decoder", "textwrap"]
    known = {p for pairs in whole.values() for p in pairs}
    again = [p for m in modules for p in module_pairs(m, sample[m])]
    assert len(again) > 20
    assert sum(p in known for p in again) > 0.8 * len(again)
    assert again == [p for m in modules for p in module_pairs(m, sample[m])]


PAIRS = [
    Pair("q0 add numbers", "def add(a, b): return a + b", "m", "m.a", "m.a:0", "add"),
    Pair("q1 subtract numbers", "def subtract(a, b): return a - b", "m", "m.a", "m.a:0", "subtract"),
    Pair("q2 list of numbers", "class Numbers: numbers = list", "m", "m.a", "m.a:1", "Numbers"),
    Pair("q3 sort the numbers", "def sort(self): self.numbers.sort()", "m", "m.a", "m.a.Numbers", "sort"),
    Pair("q4 open the path to read it", "def read(path): return open(path)", "n", "n", "n:0", "read"),
    Pair("q5 write a file", "def write(path, text): open(path).write(text)", "n", "n", "n:0", "write"),
]


def test_grades() -> None:
    assert [grade(PAIRS[0], p) for p in PAIRS] == [1.0, 0.6, 0.3, 0.3, 0.0, 0.0]
    assert encloses(PAIRS[2], PAIRS[3]) and not encloses(PAIRS[3], PAIRS[2])
    assert grade(PAIRS[3], PAIRS[2]) == grade(PAIRS[2], PAIRS[3]) == 0.6


def by_text() -> dict[str, Pair]:
    return {text: p for p in PAIRS for text in (p.query, p.document)}


def test_scores_and_classes_say_what_the_documents_are() -> None:
    known = by_text()
    for row in FORMATTERS["pair-score"](PAIRS, Options("pair-score")).to_pylist():
        query, document = known[row["anchor"]], known[row["positive"]]
        assert row["label"] == grade(query, document)
        assert row["label"] > 0 or query.package != document.package
    seen = set()
    for row in FORMATTERS["pair-class"](PAIRS, Options("pair-class")).to_pylist():
        query, document = known[row["anchor"]], known[row["positive"]]
        expected = {1.0: "own", 0.6: "same_module", 0.3: "same_module", 0.0: "unrelated"}[grade(query, document)]
        assert row["label"] == expected
        seen.add(expected)
    assert seen == {"own", "same_module", "unrelated"}


def test_negatives_are_other_functions_and_never_hold_the_answer() -> None:
    known = by_text()
    table = FORMATTERS["n-tuple"](PAIRS, Options("n-tuple", negatives=3)).to_pylist()
    for row in table:
        own = known[row["anchor"]]
        others = [known[row[f"negative_{i}"]] for i in (1, 2, 3)]
        assert known[row["positive"]] is own and own not in others and len(set(others)) == 3
        assert not any(encloses(own, p) or encloses(p, own) for p in others)
    assert known[table[4]["negative_1"]].name == "write", "the nearest by BM25 shares the words"


def test_lists_hold_the_own_source_once() -> None:
    known = by_text()
    rows = FORMATTERS["query-documents"](PAIRS, Options("query-documents", documents=3)).to_pylist()
    for row in rows:
        own = known[row["query"]]
        assert row["label"] == [grade(own, known[d]) for d in row["documents"]]
        assert row["label"].count(1.0) == 1 and len(set(row["documents"])) == 4
    assert len({row["label"].index(1.0) for row in rows}) > 1, "the place in the list must say nothing"


def test_other_formats() -> None:
    table = FORMATTERS["labelled-text"](PAIRS, Options("labelled-text")).to_pylist()
    assert table[1] == {"anchor": PAIRS[0].document, "label": "m.a"} and len(table) == 12
    rows = FORMATTERS["query-document"](PAIRS, Options("query-document", negatives=2)).to_pylist()
    assert [r["label"] for r in rows[:3]] == [1.0, 0.0, 0.0] and len(rows) == 18
    assert FORMATTERS["text"](PAIRS, Options("text")).column_names == ["anchor"]


def library_of(folder: Path, source: str) -> ModuleType:
    """A module with this source, as if it were a builder."""
    file = folder / "builder.py"
    file.write_text(source)
    linecache.checkcache(str(file))
    spec = importlib.util.spec_from_file_location("builder", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_fingerprint_follows_the_code_of_the_builders(tmp_path: Path) -> None:
    first = library_fingerprint(library_of(tmp_path, "LIMIT = 3\n"))
    assert first == library_fingerprint(library_of(tmp_path, "LIMIT = 3\n"))
    changed = library_fingerprint(library_of(tmp_path, "LIMIT = 30\n"))
    assert len({first, changed, library_fingerprint()}) == 3
    assert library_fingerprint() == library_fingerprint()
    assert library_fingerprint(docstring_formats) == library_fingerprint(docstring_formats) != library_fingerprint()


def test_the_fingerprint_follows_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    before = library_fingerprint()
    files = list(library_modules())
    monkeypatch.setattr(docstrings, "library_modules", lambda: iter(files[:-1]))
    assert library_fingerprint() != before
    monkeypatch.setattr(docstrings, "library_modules", lambda: iter(files))
    assert library_fingerprint() == before
