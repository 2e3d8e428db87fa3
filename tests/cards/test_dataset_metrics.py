"""Statistics of data sets, against loops over the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stpipe.cards.dataset_metrics import EXAMPLES, MOST_CLASSES, SAMPLE, compute_dataset_metrics, sample_rows
from stpipe.core.rows import Rows

TEXTS = ["a", "bbb", "", "cc cc", "\u00fc" * 7]


def rows(labels: list[Any] | None = None, **columns: list[Any]) -> Rows:
    return Rows(columns or {"anchor": TEXTS, "positive": TEXTS[::-1]}, labels, "pair", {})


def spread(values: list[float]) -> dict[str, float]:
    least = most = values[0]
    total = 0.0
    for value in values:
        least, most, total = min(least, value), max(most, value), total + value
    return {"min": least, "mean": pytest.approx(total / len(values)), "max": most}


def test_texts() -> None:
    lengths = {"anchor": np.array([3, 9, 2, 5, 11])}
    found = compute_dataset_metrics(rows(), size=70, lengths=lengths)
    assert (found["size"], found["sample"], found["columns"], found["samples"]) == (70, 5, ["anchor", "positive"], [])
    assert found["stats"]["anchor"] == {"type": "string", "tokens": spread([3, 9, 2, 5, 11]), "characters": spread([1, 3, 0, 5, 7])}
    assert "tokens" not in found["stats"]["positive"]


def test_lists_of_texts_and_of_scores() -> None:
    documents = [["a", "bb"], ["ccc"], ["d", "e", "ffff"]]
    labels = [[1.0, 0.0], [0.5], [0.0, 0.25, 1.0]]
    found = compute_dataset_metrics(rows(labels, query=["q", "qq", "qqq"], documents=documents), examples=2)
    flat = [len(text) for texts in documents for text in texts]
    assert found["stats"]["documents"] == {"type": "list of strings", "items": spread([2, 1, 3]), "characters": spread(flat)}
    assert found["stats"]["label"] == {
        "type": "list of floats",
        "items": spread([2, 1, 3]),
        "values": spread([v for row in labels for v in row]),
    }
    assert found["samples"] == [
        {"query": "q", "documents": ["a", "bb"], "label": [1.0, 0.0]},
        {"query": "qq", "documents": ["ccc"], "label": [0.5]},
    ]


def test_the_distribution_of_classes() -> None:
    found = compute_dataset_metrics(rows([0, 2, 2, 1, 2]))["stats"]["label"]
    assert found == {"type": "int", "num_classes": 3, "classes": {"2": 0.6, "0": 0.2, "1": 0.2}}
    assert list(found["classes"]) == ["2", "0", "1"]


def test_the_distribution_of_all_rows_comes_first() -> None:
    """What the scan counted in all rows, not what the sample holds."""
    known = {"kind": "class", "classes": 2, "rows": {"yes": 75, "no": 25}}
    assert compute_dataset_metrics(rows([0, 0, 0, 0, 0]), label=known)["stats"]["label"]["classes"] == {"yes": 0.75, "no": 0.25}
    known = {"kind": "score", "min": -1.0, "mean": 0.5, "max": 3.0}
    found = compute_dataset_metrics(rows([0.1, 0.2, 0.3, 0.4, 0.5]), label=known)["stats"]["label"]
    assert found == {"type": "float", "values": {"min": -1.0, "mean": 0.5, "max": 3.0}}


def test_many_classes_are_counted() -> None:
    labels = [i for i in range(40) for _ in range(i + 1)]
    found = compute_dataset_metrics(rows(labels, anchor=["x"] * len(labels)))["stats"]["label"]
    assert (found["num_classes"], len(found["classes"])) == (40, MOST_CLASSES)
    assert next(iter(found["classes"].items())) == ("39", 40 / len(labels))


def test_examples_are_off_unless_asked_for_and_short() -> None:
    long = "word " * 200
    data = rows(anchor=[long, "b", "c", "d"], documents=[["x"] * 9] * 4)
    assert compute_dataset_metrics(data)["samples"] == []
    first = compute_dataset_metrics(data, examples=EXAMPLES)["samples"]
    assert [row["anchor"] for row in first][1:] == ["b", "c"]
    assert 20 < len(first[0]["anchor"]) < 210 and first[0]["documents"] == ["x"] * 3


@pytest.mark.parametrize("size", [0, 1, EXAMPLES, SAMPLE, SAMPLE + 1, 1_000_000])
def test_the_sample_begins_with_the_first_rows(size: int) -> None:
    chosen = sample_rows(size)
    assert len(chosen) == len(set(chosen.tolist())) and len(chosen) <= SAMPLE
    assert chosen[:EXAMPLES].tolist() == list(range(min(EXAMPLES, size)))
    if size > SAMPLE:
        assert chosen[-1] == size - 1 and len(chosen) > SAMPLE / 2
        assert (np.diff(chosen) > 0).all()


def test_no_rows() -> None:
    found = compute_dataset_metrics(Rows({"anchor": []}, None, "text", {}))
    assert found["stats"] == {"anchor": {"type": "string", "characters": {}}}
