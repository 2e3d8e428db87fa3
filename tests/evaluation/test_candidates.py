"""The order that data give their documents."""

from __future__ import annotations

import dataclasses
from typing import Any

from stpipe.core.rows import Rows
from stpipe.evaluation.candidates import listed_orders
from stpipe.evaluation.collection import collection_of
from tests.evaluation.toy import labelled, tuples


def lists_of(queries: list[str], documents: list[list[str]], labels: list[list[float]]) -> Rows:
    return Rows({"query": queries, "documents": documents}, labels, "query-documents", {})


def orders(rows: Rows, threshold: float = 0.0) -> Any:
    collection, _ = collection_of(rows)
    found = listed_orders(rows, collection, threshold=threshold)
    return None if found is None else [[collection.docs[i] for i in order] for order in found]


def test_lists_are_in_their_order() -> None:
    rows = lists_of(["a", "b"], [["x", "y", "z"], ["z", "x"]], [[0, 1, 0], [1, 0]])
    assert orders(rows) == [["x", "y", "z"], ["z", "x"]]


def test_several_lists_of_a_query_are_one_by_the_best_place_of_each_document() -> None:
    rows = lists_of(["a", "a"], [["x", "y", "z"], ["y", "w", "v", "x"]], [[0, 1, 0], [0, 0, 1, 0]])
    assert orders(rows) == [["x", "y", "w", "z", "v"]]


def test_lists_in_the_order_of_their_labels_are_no_order() -> None:
    documents = [["x", "y", "z"], ["z", "x", "y"]]
    assert orders(lists_of(["a", "b"], documents, [[1, 0, 0], [1, 1, 0]])) is None
    graded = lists_of(["a", "b"], documents, [[0.2, 0.9, 0], [0, 0.2, 0]])
    assert orders(graded) is not None and orders(dataclasses.replace(graded, labels=[[1, 0.9, 0], [0.7, 0.8, 0]]), 0.5) is None


def test_rows_without_lists_have_no_order() -> None:
    assert orders(tuples()) is None and orders(labelled()) is None
