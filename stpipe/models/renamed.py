"""Old names of the documented interface: they work, and say what is used today."""

from __future__ import annotations

import warnings


def renamed(old: str, new: str) -> None:
    """Warn that `old` is now called `new`; points at the caller of the public function."""
    warnings.warn(f"`{old}` is an old name; use `{new}`", DeprecationWarning, stacklevel=3)
