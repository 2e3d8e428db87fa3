from __future__ import annotations

import numpy as np
import pyarrow as pa

from stpipe.data.texts import TextSequence, compact, distinct, spread, text_bytes, text_column


def table(columns: dict[str, list]):  # type: ignore[no-untyped-def]
    parts = {name: text_column(pa.chunked_array([pa.array(values[:2]), pa.array(values[2:])])) for name, values in columns.items()}
    return distinct({n: p[0] for n, p in parts.items()}, {n: p[1] for n, p in parts.items()})


def test_each_text_is_held_once_across_roles_and_lists() -> None:
    found = table({"query": ["b", "a", "b"], "documents": [["c", "b"], [], ["a", None]]})
    assert found.texts.to_pylist() == ["b", "a", "c"]
    assert found.roles["query"].index.tolist() == [0, 1, 0]
    assert found.roles["documents"].index.tolist() == [2, 0, 1, -1]
    assert found.roles["documents"].counts().tolist() == [2, 0, 2]


def test_rows_keep_their_texts_and_drop_the_others() -> None:
    found = table({"query": ["b", "a", "b"], "documents": [["c", "b"], ["d"], ["a", "e"]]}).take(np.array([2, 2]))
    assert found.texts.to_pylist() == ["b", "a", "e"]
    texts = pa.chunked_array([found.texts])
    assert list(TextSequence(texts, found.roles["documents"])) == [["a", "e"], ["a", "e"]]
    assert TextSequence(texts, found.roles["query"])[-1] == "b"
    assert TextSequence(texts, found.roles["query"])[0:1] == ["b"]


def test_the_bytes_depend_on_nothing_but_the_content() -> None:
    whole = pa.array(["x" * 5, "b", "", "a\u00e9"], pa.large_string())
    part = whole.slice(1)
    again = pa.array(["b", "", "a\u00e9"], pa.large_string())
    for a, b in zip(text_bytes(part), text_bytes(again), strict=True):
        assert bytes(a) == bytes(b)
    assert bytes(text_bytes(again)[1]) == "ba\u00e9".encode()


def test_compact_numbers_by_first_use() -> None:
    found = table({"anchor": ["a", "b", "c"]})
    moved = compact(type(found)(found.texts, {"anchor": found.roles["anchor"].take(np.array([2, 0, 2]))}))
    assert moved.texts.to_pylist() == ["c", "a"]
    assert moved.roles["anchor"].index.tolist() == [0, 1, 0]


def test_spread() -> None:
    assert spread(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert spread(np.array([], np.int64), np.array([], np.int64)).tolist() == []
