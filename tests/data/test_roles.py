from __future__ import annotations

from itertools import permutations

import pytest

from stpipe.config.errors import ConfigError, DataError
from stpipe.data.roles import resolve_roles


@pytest.mark.parametrize(
    ("columns", "roles"),
    [
        (["anchor", "positive"], {"anchor": "anchor", "positive": "positive"}),
        (["anchor", "positive", "negative"], {"anchor": "anchor", "positive": "positive", "negative_1": "negative"}),
        (["anchor", "positive", "negative_1", "negative_2"], {r: r for r in ("anchor", "positive", "negative_1", "negative_2")}),
        (["sentence1", "sentence2", "score"], {"anchor": "sentence1", "positive": "sentence2", "label": "score"}),
        (["premise", "hypothesis", "label"], {"anchor": "premise", "positive": "hypothesis", "label": "label"}),
        (["question", "answer"], {"anchor": "question", "positive": "answer"}),
        (["query", "answer"], {"anchor": "query", "positive": "answer"}),
        (["query", "positive", "negative"], {"anchor": "query", "positive": "positive", "negative_1": "negative"}),
        (["query", "passage", "label"], {"query": "query", "document": "passage", "label": "label"}),
        (["query", "document", "label"], {"query": "query", "document": "document", "label": "label"}),
        (["query", "docs", "scores"], {"query": "query", "documents": "docs", "label": "scores"}),
        (["sentence", "label"], {"anchor": "sentence", "label": "label"}),
        (["text"], {"anchor": "text"}),
        (["anchor", "positive", "score", "id"], {"anchor": "anchor", "positive": "positive", "label": "score"}),
    ],
)
def test_known_names_in_any_order(columns: list[str], roles: dict[str, str]) -> None:
    for order in permutations(columns):
        found = resolve_roles(order, {}, origin="x")
        assert dict(found.columns) == roles
        assert list(found.columns) == list(roles), "roles come in canonical order, not in that of the columns"
        assert set(found.unused) == set(columns) - set(roles.values())


def test_given_columns_are_taken_as_they_are() -> None:
    found = resolve_roles(["q", "a", "anchor", "score"], {"positive": "a", "anchor": "q"}, origin="x")
    assert dict(found.columns) == {"anchor": "q", "positive": "a"}
    assert found.unused == ("anchor", "score")
    assert found.how == "given"


def test_an_unknown_column_names_the_nearest() -> None:
    with pytest.raises(DataError, match=r"dataset.columns.anchor: x has no column 'querry'. Did you mean 'query'\? Columns: query, answer"):
        resolve_roles(["query", "answer"], {"anchor": "querry"}, origin="x")


def test_an_unknown_role_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"dataset.columns.postive: unknown role. Did you mean 'positive'\?"):
        resolve_roles(["a"], {"postive": "a"}, origin="x")


def test_one_column_cannot_play_two_roles() -> None:
    with pytest.raises(ConfigError, match="two roles"):
        resolve_roles(["a"], {"anchor": "a", "positive": "a"}, origin="x")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["foo", "bar"], "no column with the name of a role among foo, bar"),
        (["sentence1", "sentence2", "premise", "hypothesis"], "more than one known set of columns"),
        (["sentence1", "sentence2", "score", "label"], "both label and score could be the label"),
        ([], "among no columns"),
    ],
)
def test_what_is_not_clear_is_asked_for(columns: list[str], expected: str) -> None:
    with pytest.raises(DataError, match=expected) as caught:
        resolve_roles(columns, {}, origin="x")
    assert "dataset.columns" in str(caught.value)
