"""Which column plays which role. By name only: the order of columns never matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stpipe.config.errors import ConfigError, DataError, Problem
from stpipe.config.formats import FORMATS, LABEL, NEGATIVE, TEXT_ROLES, is_role, text_roles
from stpipe.config.registry import nearest

LABEL_NAMES = ("label", "labels", "score", "scores")
DOCUMENTED: tuple[Mapping[str, str], ...] = (
    {"sentence1": "anchor", "sentence2": "positive"},
    {"sentence_A": "anchor", "sentence_B": "positive"},
    {"premise": "anchor", "hypothesis": "positive"},
    {"question": "anchor", "answer": "positive"},
    {"query": "anchor", "answer": "positive"},
    {"query": "anchor", "positive": "positive"},
    {"query": "query", "passage": "document"},
    {"query": "query", "docs": "documents"},
    {"sentence": "anchor"},
    {"text": "anchor"},
)
"""Text columns of the data sets that the sentence-transformers documentation uses -> roles."""


@dataclass(frozen=True, slots=True)
class RoleMap:
    """columns: role -> column, in canonical order, the label last; unused: other columns; how: given, role names, documented names."""

    columns: Mapping[str, str]
    unused: tuple[str, ...]
    how: str

    @property
    def texts(self) -> tuple[str, ...]:
        """The text roles in canonical order."""
        return text_roles(self.columns)


def resolve_roles(available: Sequence[str], given: Mapping[str, str], *, origin: str, key: str = "dataset") -> RoleMap:
    """Roles of the columns of one source.

    Args:
        available: names of its columns.
        given: `dataset.columns`, role -> column. Empty: columns that carry a role's name, else the documented names.
        origin: what was read, for messages.
        key: configuration path of the data set, for messages.
    """
    if given:
        return _map(_given(available, given, origin, key), available, "given")
    named = {c: c for c in available if is_role(c)}
    if "negative" in available and "positive" in named and "negative_1" not in named:
        named["negative_1"] = "negative"
    if any(set(f.roles) == {r for r in named if r in TEXT_ROLES} for f in FORMATS.values()):
        return _map({**named, **_label(available, origin, key)}, available, "role names")
    documented = [d for d in DOCUMENTED if set(d) <= set(available)]
    best = [d for d in documented if not any(set(d) < set(other) for other in documented)]
    if len(best) != 1:
        found = " and ".join("+".join(d) for d in best)
        why = f"more than one known set of columns ({found})" if best else "no column with the name of a role"
        raise DataError(
            f"{origin}: found {why} among {', '.join(available) or 'no columns'}; expected one of {', '.join(TEXT_ROLES)}, negative_1. "
            f"Say what the columns mean, e.g. {key}.columns={{anchor: COLUMN, positive: COLUMN}}."
        )
    roles = {role: column for column, role in best[0].items()}
    roles.update({role: column for role, column in named.items() if NEGATIVE.fullmatch(role)})
    return _map({**roles, **_label(available, origin, key)}, available, "documented names")


def _given(available: Sequence[str], given: Mapping[str, str], origin: str, key: str) -> dict[str, str]:
    for role, column in given.items():
        if not is_role(role):
            guess = nearest(role, [*TEXT_ROLES, LABEL, "negative_1"])
            hint = f"Did you mean '{guess}'? " if guess else ""
            raise ConfigError(
                Problem(f"{key}.columns.{role}", f"unknown role. {hint}Roles: {', '.join(TEXT_ROLES)}, negative_1..., {LABEL}")
            )
        if column not in available:
            guess = nearest(column, list(available))
            hint = f"Did you mean '{guess}'? " if guess else ""
            raise DataError(f"{key}.columns.{role}: {origin} has no column '{column}'. {hint}Columns: {', '.join(available) or 'none'}.")
    if len(set(given.values())) < len(given):
        raise ConfigError(Problem(f"{key}.columns", f"one column plays two roles in {dict(given)}; expected a column for each role"))
    return dict(given)


def _label(available: Sequence[str], origin: str, key: str) -> dict[str, str]:
    """The label column, when exactly one column has a label's name."""
    found = [name for name in LABEL_NAMES if name in available]
    if len(found) > 1:
        raise DataError(
            f"{origin}: both {' and '.join(found)} could be the label; name every role in {key}.columns, e.g. {LABEL}: {found[0]}."
        )
    return {LABEL: found[0]} if found else {}


def _map(roles: Mapping[str, str], available: Sequence[str], how: str) -> RoleMap:
    order = [*text_roles(roles), *([LABEL] if LABEL in roles else [])]
    columns = {role: roles[role] for role in order}
    return RoleMap(columns, tuple(c for c in available if c not in columns.values()), how)
