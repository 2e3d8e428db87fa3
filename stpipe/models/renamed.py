"""Old names of the documented interface: they work, and say what is used today."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any


def renamed(old: str, new: str) -> None:
    """Warn that `old` is now called `new`; points at the caller of the public function."""
    warnings.warn(f"`{old}` is an old name; use `{new}`", DeprecationWarning, stacklevel=3)


def current_names(given: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Keyword arguments under their names of today. names: old -> new; an argument that is given under both keeps the new one."""
    found = {name: value for name, value in given.items() if name not in names}
    for old in names.keys() & given.keys():
        warnings.warn(f"`{old}` is an old name; use `{names[old]}`", DeprecationWarning, stacklevel=3)
        found.setdefault(names[old], given[old])
    return found
