"""Texts that show what a model does."""

from __future__ import annotations

from stpipe.cards.examples import LONGEST, WANTED, default_examples, usage_examples, widget
from stpipe.core.rows import Rows


def rows(**columns: list) -> Rows:
    return Rows(columns, None, "pair", {})


def test_the_shortest_row_and_what_answers_others() -> None:
    data = rows(anchor=["a long anchor text", "q", "qq", "qqq"], positive=["its positive", "p", "pp", "ppp"])
    assert usage_examples(data) == ["q", "p", "pp", "ppp"]


def test_lists_single_texts_and_repeats() -> None:
    found = usage_examples(rows(query=["q", "qq", "r"], documents=[["d", "e", "f"], ["gg", "h"], ["d", "x"]]))
    assert found[:3] == ["q", "d", "e"] and len(set(found)) == len(found)
    assert usage_examples(rows(anchor=["a", "bb", "a", "ccc", "dddd", "eeeee"])) == ["a", "bb", "ccc", "dddd"]


def test_too_few_empty_and_long_texts_give_none() -> None:
    assert usage_examples(rows(anchor=["a", "b"], positive=["c", ""])) == []
    assert usage_examples(rows(anchor=["x" * (LONGEST + 1)] * 9, positive=["y"] * 9)) == []
    assert usage_examples(rows(anchor=[], positive=[])) == []


def test_widgets_by_task() -> None:
    texts = ["a", "b", "c", "d"]
    assert widget("sentence-similarity", texts) == [{"source_sentence": "a", "sentences": ["b", "c", "d"]}]
    assert widget("feature-extraction", texts) == [{"text": "a"}, {"text": "b"}]
    assert widget("text-ranking", texts) == widget("text-classification", texts) == []


def test_defaults_are_enough() -> None:
    for retrieval in (True, False):
        for classes in (True, False):
            assert len(default_examples(retrieval=retrieval, classes=classes)) == WANTED
