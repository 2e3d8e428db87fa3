from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stpipe.config.errors import ConfigError, DataError

TEXTS = [{"id": f"d{i}", "text": f"document number {i}"} for i in range(10)]


def test_ids_become_texts_when_rows_are_read(run_prepare: Any, write_jsonl: Callable[..., str]) -> None:
    table = write_jsonl(TEXTS, "corpus.jsonl")
    queries = write_jsonl([{"query_id": i, "query": f"query {i}"} for i in range(5)], "queries.jsonl")
    rows = [{"q": i % 5, "d": ["d3", f"d{i}"], "s": [1.0, 0.0]} for i in range(8)]
    source = run_prepare(
        train=write_jsonl(rows), columns={"query": "q", "documents": "d", "label": "s"}, joins={"query": queries, "documents": table}
    ).train["default"]
    read = source.rows()
    assert read.columns["query"][6] == "query 1"
    assert read.columns["documents"][6] == ["document number 3", "document number 6"]
    assert len(source.store("documents")) == 8 + 5, "only texts that rows use are tokenised, each once"
    assert source.batch(np.array([2])).columns["documents"].counts.tolist() == [2]


def test_the_join_gives_what_the_texts_themselves_give(run_prepare: Any, write_jsonl: Callable[..., str]) -> None:
    table = write_jsonl([*TEXTS, {"id": "again", "text": "document number 0"}], "corpus.jsonl")
    ids = [("d0", "d1"), ("again", "d2"), ("d5", "d0")]
    text = {t["id"]: t["text"] for t in [*TEXTS, {"id": "again", "text": "document number 0"}]}
    joined = run_prepare(train=write_jsonl([{"anchor": a, "positive": b} for a, b in ids]), joins={"anchor": table, "positive": table})
    plain = run_prepare(train=write_jsonl([{"anchor": text[a], "positive": text[b]} for a, b in ids]))
    assert joined.train["default"].fingerprint == plain.train["default"].fingerprint


def test_an_unknown_id_is_named(run_prepare: Any, write_jsonl: Callable[..., str]) -> None:
    table = write_jsonl(TEXTS, "corpus.jsonl")
    with pytest.raises(DataError, match=r"train.jsonl line 2, column 'positive': found 'd77', expected an id of the table .*corpus.jsonl"):
        run_prepare(train=write_jsonl([{"anchor": "a", "positive": "d1"}, {"anchor": "b", "positive": "d77"}]), joins={"positive": table})
    rows = [{"query": "a", "documents": ["d1"], "label": [1.0]}, {"query": "b", "documents": ["d1", "x"], "label": [1.0, 0.0]}]
    with pytest.raises(DataError, match="line 2, column 'documents': found 'x'"):
        run_prepare(train=write_jsonl(rows), joins={"documents": table})


def test_a_table_needs_ids_that_differ_and_texts(run_prepare: Any, write_jsonl: Callable[..., str]) -> None:
    rows = write_jsonl([{"anchor": "a", "positive": "d1"}])
    with pytest.raises(DataError, match="same id more than once"):
        run_prepare(train=rows, joins={"positive": write_jsonl([*TEXTS, TEXTS[1]], "corpus.jsonl")})
    with pytest.raises(DataError, match="expected id and text"):
        run_prepare(train=rows, joins={"positive": write_jsonl([{"key": "d1", "a": "x", "b": "y"}], "corpus.jsonl")})
    with pytest.raises(ConfigError, match=r"dataset.joins.document: the data has no such role. Roles: anchor, positive"):
        run_prepare(train=rows, joins={"document": write_jsonl(TEXTS, "corpus.jsonl")})
    with pytest.raises(ConfigError, match=r"dataset.joins.positive: .*no file or directory"):
        run_prepare(train=rows, joins={"positive": "./nowhere.jsonl"})


def test_numbers_without_a_table_are_no_texts(run_prepare: Any, write_jsonl: Callable[..., str]) -> None:
    with pytest.raises(DataError, match=r"column 'anchor': found 7, expected text .*dataset.joins.anchor"):
        run_prepare(train=write_jsonl([{"anchor": 7, "positive": "a"}]))
    with pytest.raises(DataError, match="expected one text"):
        run_prepare(train=write_jsonl([{"anchor": ["a"], "positive": "a"}]))
    with pytest.raises(DataError, match="expected one score for each document"):
        run_prepare(train=write_jsonl([{"query": "a", "documents": ["a", "b"], "label": [1.0]}]))
