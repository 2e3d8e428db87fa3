from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stpipe.config.errors import DataError
from stpipe.config.sections import CheckSection, SourceSection
from stpipe.data import checks
from stpipe.data.load import Loaded, load
from stpipe.data.sources import SourceRequest
from stpipe.data.split import cap, hold_out
from tests.data.conftest import pairs

Write = Callable[..., str]


def loaded(path: str, **keys: Any) -> Loaded:
    return load(SourceSection(**keys), SourceRequest(path), path="dataset")


@pytest.mark.parametrize("empty", [None, "", "  \t\n\u00a0"])
def test_empty_texts_fail_with_their_places(empty: str | None, write_jsonl: Write) -> None:
    rows = pairs(4)
    rows[2]["positive"] = empty
    rows[3]["positive"] = empty
    data = loaded(write_jsonl(rows))
    with pytest.raises(DataError) as caught:
        checks.empty_texts(data, "fail")
    for part in ("2 rows with an empty text in role positive", "line 3: positive=" + repr(empty), "line 4", "dataset.checks.empty"):
        assert part in str(caught.value)
    kept, findings = checks.empty_texts(data, "drop")
    assert kept.origin.tolist() == [0, 1] and findings[0].rows == 2 and findings[0].message.endswith("dropped")
    same, findings = checks.empty_texts(data, "warn")
    assert len(same) == 4 and findings[0].action == "warn"


def test_an_empty_list_or_a_list_with_an_empty_text_counts_as_empty(write_jsonl: Write) -> None:
    lists = [["a", "b"], [], ["c", " "]]
    rows = [{"query": f"q{i}", "documents": d, "label": [1.0] * len(d)} for i, d in enumerate(lists)]
    kept, findings = checks.empty_texts(loaded(write_jsonl(rows)), "drop")
    assert kept.origin.tolist() == [0] and findings[0].rows == 2


def test_a_missing_label_cannot_be_trained_on(write_jsonl: Write) -> None:
    data = loaded(write_jsonl([{**r, "label": v} for r, v in zip(pairs(3), [1, -1, None], strict=True)]))
    for action in ("fail", "warn"):
        with pytest.raises(DataError, match="2 rows without a label"):
            checks.empty_texts(data, action)
    assert checks.empty_texts(data, "drop")[0].origin.tolist() == [0]


def test_warned_empty_texts_are_trained_on_as_empty(write_jsonl: Write, run_prepare: Any) -> None:
    source = run_prepare(train=write_jsonl([{"anchor": "a", "positive": None}, *pairs(2)]), checks=CheckSection(empty="warn")).train[
        "default"
    ]
    assert source.batch(np.array([0])).columns["positive"].tokens.lengths.tolist() == [2]
    assert source.rows().columns["positive"][0] == ""


def test_repeated_rows_are_repeated_in_every_role_and_label(write_jsonl: Write) -> None:
    base = {"query": "q", "documents": ["a", "b"], "label": [1.0, 0.0]}
    rows = [
        base,
        {**base, "documents": ["b", "a"]},
        {**base, "label": [0.0, 1.0]},
        dict(base),
        {**base, "documents": ["a"], "label": [1.0]},
        {**base, "query": "other"},
        dict(base),
    ]
    data = loaded(write_jsonl(rows))
    kept, findings = checks.duplicate_rows(data, "drop")
    assert kept.origin.tolist() == [0, 1, 2, 4, 5] and findings[0].rows == 2
    assert "line 4" in findings[0].examples[0]
    assert checks.duplicate_rows(data, "off") == (data, [])
    with pytest.raises(DataError, match="2 rows that repeat an earlier row"):
        checks.duplicate_rows(data, "fail")


def test_labels_outside_the_range_are_named(write_jsonl: Write) -> None:
    data = loaded(write_jsonl([{**r, "score": v} for r, v in zip(pairs(3), [0.5, 4.5, -1.0], strict=True)]))
    checks.label_range(data, None, None)
    checks.label_range(data, -1.0, 4.5)
    with pytest.raises(DataError) as caught:
        checks.label_range(data, 0.0, 1.0)
    for part in ("2 rows with a label outside [0, 1]", "column 'score'", "from -1 to 4.5", "line 2: score=4.5", "line 3: score=-1.0"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="1 row with a label outside"):
        checks.label_range(data, None, 1.0)


def test_the_range_comes_from_the_loss_unless_it_is_given(write_jsonl: Write, run_prepare: Any) -> None:
    path = write_jsonl([{**r, "score": 4.5} for r in pairs(3)])
    with pytest.raises(DataError, match="outside"):
        run_prepare(train=path, label_ranges={"default": (0.0, 1.0)})
    found = run_prepare(train=path, label_ranges={"default": (0.0, 1.0)}, checks=CheckSection(label_max=5.0))
    assert len(found.train["default"]) == 3


def test_dropping_everything_is_an_error(write_jsonl: Write, run_prepare: Any) -> None:
    with pytest.raises(DataError, match="no row is left of 2"):
        run_prepare(train=write_jsonl([{"anchor": "", "positive": "a"}] * 2), checks=CheckSection(empty="drop"))


def test_hold_out_keeps_groups_together_and_the_data_trainable(write_jsonl: Write) -> None:
    data = loaded(write_jsonl([{"anchor": f"q{i % 10}", "positive": f"p{i}"} for i in range(40)]))
    train, held_out = hold_out(data, rows=1000, seed=0)
    assert len(train) >= 20 and len(held_out) >= 8
    groups = [set(np.array([i % 10 for i in range(40)])[part.origin].tolist()) for part in (train, held_out)]
    assert groups[0].isdisjoint(groups[1])
    train, held_out = hold_out(data, rows=0, seed=0)
    assert (len(train), len(held_out)) == (40, 0)
    one = loaded(write_jsonl([{"anchor": "q", "positive": f"p{i}"} for i in range(4)]))
    assert len(hold_out(one, rows=2, seed=0)[1]) == 0


def test_caps_keep_the_order(write_jsonl: Write) -> None:
    data = loaded(write_jsonl(pairs(30)))
    rows = cap(data, 10, seed=3).origin
    assert rows.size == 10 and np.all(np.diff(rows) > 0) and rows.tolist() != list(range(10))
    assert cap(data, 30, seed=3) is data and cap(data, None, seed=3) is data


def test_a_large_table_is_scanned_in_seconds(tmp_path: Any) -> None:
    """100,000 rows within 6 seconds: a million within a minute."""
    count = 100_000
    numbers = np.arange(count)
    columns = {"anchor": [f"what is thing number {i // 2}?" for i in numbers], "positive": [f"a thing that is called {i}" for i in numbers]}
    pq.write_table(pa.table({**columns, "score": numbers / count}), tmp_path / "a.parquet")
    start = time.process_time()
    data = loaded(str(tmp_path / "a.parquet"))
    data = checks.duplicate_rows(checks.empty_texts(data, "fail")[0], "drop")[0]
    checks.label_range(data, 0, 1)
    train, held_out = hold_out(data, rows=1000, seed=0)
    train, findings = checks.overlap(train, held_out, "warn")
    assert time.process_time() - start < 6
    assert len(train) + len(held_out) == count and not findings
