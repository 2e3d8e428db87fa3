"""The data formats, by the roles that their columns play. Names are those of the sentence-transformers documentation."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

NEGATIVE = re.compile(r"negative_([1-9]\d*)")
TEXT_ROLES: tuple[str, ...] = ("anchor", "positive", "query", "document", "documents")
QUERY_ROLES: tuple[str, ...] = ("anchor", "query")
LABEL = "label"


@dataclass(frozen=True)
class Format:
    """What a row of one format holds.

    `roles` are the text roles; `negatives` is the least number of `negative_N` roles, and `more_negatives` says whether
    there may be more; `label` says what the label column holds: None (there is none), "score" (a float), "class" (an
    integer or a string), "scores" (a list: one a document, or a teacher's for the positive and the negatives),
    "vector" (a list, the embedding to be matched).
    """

    name: str
    roles: tuple[str, ...]
    negatives: int = 0
    more_negatives: bool = False
    label: str | None = None

    def fits(self, roles: Collection[str]) -> bool:
        """True when these are its text roles, each of them there (a label among `roles` is not looked at)."""
        count = len(negative_roles(roles))
        enough = count >= self.negatives if self.more_negatives else count == self.negatives
        return enough and set(self.roles) == {r for r in roles if r in TEXT_ROLES}

    def least_roles(self) -> tuple[str, ...]:
        """Its text roles with as few negatives as it can have."""
        return (*self.roles, *(f"negative_{i + 1}" for i in range(self.negatives)))


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("text", ("anchor",)),
        Format("text-vector", ("anchor",), label="vector"),
        Format("pair-vector", ("anchor", "positive"), label="vector"),
        Format("labelled-text", ("anchor",), label="class"),
        Format("pair", ("anchor", "positive")),
        Format("pair-score", ("anchor", "positive"), label="score"),
        Format("pair-class", ("anchor", "positive"), label="class"),
        Format("triplet", ("anchor", "positive"), negatives=1),
        Format("triplet-score", ("anchor", "positive"), negatives=1, label="score"),
        Format("n-tuple", ("anchor", "positive"), negatives=2, more_negatives=True),
        Format("n-tuple-scores", ("anchor", "positive"), negatives=1, more_negatives=True, label="scores"),
        Format("query-document", ("query", "document"), label="score"),
        Format("query-documents", ("query", "documents"), label="scores"),
    )
}


def is_role(name: str) -> bool:
    """True for every role that `dataset.columns` may name."""
    return name in TEXT_ROLES or name == LABEL or NEGATIVE.fullmatch(name) is not None


def side_of(role: str) -> Literal["query", "document"]:
    """What the texts of a role are in a search: queries, or all others documents."""
    return "query" if role in QUERY_ROLES else "document"


def negative_roles(roles: Collection[str]) -> tuple[str, ...]:
    """The numbered negatives among `roles`, in order of their numbers."""
    return tuple(sorted((r for r in roles if NEGATIVE.fullmatch(r)), key=lambda r: int(r.split("_")[1])))


def text_roles(roles: Collection[str]) -> tuple[str, ...]:
    """The text roles among `roles` in canonical order (never the order of the columns in a file)."""
    return tuple(r for r in TEXT_ROLES if r in roles) + negative_roles(roles)


def match_format(roles: Collection[str], label: str | None) -> Format | None:
    """The format that exactly these roles make, given what the label holds ("score", "class", "scores", "vector" or None)."""
    return next((f for f in FORMATS.values() if f.label == label and f.fits(roles)), None)
