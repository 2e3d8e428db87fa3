"""Raw rows by role, as evaluators, cards and reports see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rows:
    """Texts of one data set by role, all of one length. `documents` holds a list of texts a row.

    labels: what the role `label` holds (scores, classes or lists of scores), None when there is none; prompts: role ->
    prompt that training put before the role's texts; name: of the data set; format: its format (config/formats.py); classes: names
    of the classes 0, 1, ... where the data named them.
    """

    columns: Mapping[str, Sequence[Any]]
    labels: Sequence[Any] | None
    format: str
    prompts: Mapping[str, str]
    name: str = "default"
    classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))
