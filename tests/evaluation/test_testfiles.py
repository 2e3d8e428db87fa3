"""Files of queries, documents and judgements."""

from __future__ import annotations

from pathlib import Path

import pytest

from stpipe.config.errors import DataError
from stpipe.evaluation.testfiles import Joined, TextFile, read_collection, read_qrels

CORPUS = '{"_id": 7, "text": "one", "title": "T"}\n\n{"id": "b", "text": "zwei \\u00e4"}\n{"_id": "c", "text": "three"}\n'


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text(CORPUS, encoding="utf-8")
    return path


def test_texts_are_read_by_line(corpus: Path) -> None:
    texts = TextFile(str(corpus))
    assert texts.ids == ["7", "b", "c"] and len(texts) == 3
    assert texts[0] == "T one" and texts[1:] == ["zwei ä", "three"] and texts[-1] == "three"
    assert list(texts) == ["T one", "zwei ä", "three"]
    assert TextFile(str(corpus), without={"three"}).ids == ["7", "b"]


def test_joined_texts() -> None:
    joined = Joined(["a", "b"], ["c", "d"])
    assert [joined[i] for i in range(4)] == list("abcd") == list(joined)
    assert [joined[i:j] for i in range(5) for j in range(5)] == [list("abcd")[i:j] for i in range(5) for j in range(5)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("qrels.tsv", "query-id\tcorpus-id\tscore\n1\t7\t2\n1\tb\t0\n"),
        ("qrels.tsv", "1\t7\t2\n1\tb\t0\n"),
        ("qrels.txt", "1 0 7 2\n1 0 b 0\n"),
        ("qrels.jsonl", '{"query-id": 1, "corpus-id": 7, "score": 2}\n{"query_id": "1", "doc_id": "b", "grade": 0}\n'),
    ],
)
def test_judgements_of_each_layout(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert list(read_qrels(str(tmp_path / name))) == [("1", "7", 2.0), ("1", "b", 0.0)]


def test_queries_without_judgement_are_left_out(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "queries.tsv").write_text("1\tfirst\n2\tsecond\n")
    (tmp_path / "qrels.tsv").write_text("2\tc\t1\n2\tgone\t1\n9\tc\t1\n")
    found = read_collection(queries=str(tmp_path / "queries.tsv"), corpus=str(corpus), qrels=str(tmp_path / "qrels.tsv"))
    assert list(found.query_ids) == ["2"] and list(found.queries) == ["second"] and found.grades == [{2: 1.0}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"_id": "x"}\n', "a.jsonl:1: found keys _id; expected '_id'"),
        ("a.jsonl", '{"_id": "x", "text": "t"}\nnope\n', "a.jsonl:2: not JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: expected a JSON object, found list"),
        ("a.jsonl", '{"_id": "x", "text": "t"}\n{"_id": "x", "text": "u"}\n', "a.jsonl:2: id 'x' occurs twice"),
        ("a.tsv", "no tab\n", "a.tsv:1: no tab"),
        ("a.tsv", "\n", "holds no texts"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        TextFile(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.tsv", "1\t7\t2\n1\tb\tmuch\n", "q.tsv:2: expected query id, document id and a number as grade"),
        ("q.txt", "1 7\n", "q.txt:1: expected"),
        ("q.jsonl", '{"query-id": "1", "score": 1}\n', "q.jsonl:1: found keys query-id, score"),
    ],
)
def test_bad_judgements_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        list(read_qrels(str(tmp_path / name)))


def test_judgements_of_other_ids_are_refused(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "queries.tsv").write_text("1\tfirst\n")
    (tmp_path / "qrels.tsv").write_text("1\tother\t1\n")
    with pytest.raises(DataError, match="1 judged documents are unknown"):
        read_collection(queries=str(tmp_path / "queries.tsv"), corpus=str(corpus), qrels=str(tmp_path / "qrels.tsv"))
