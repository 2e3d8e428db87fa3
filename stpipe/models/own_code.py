"""Python code that comes with a model: not run unless asked for, and then it is said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stpipe.config.errors import ConfigError

SWITCH = "trust_remote_code"


def loading(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of transformers' from_pretrained. Without a word about foreign code, transformers would ask on a terminal and wait."""
    return {SWITCH: False, **(options or {})}


def refuse_own_code(directory: Path, error: Exception) -> None:
    """Say what to do about a model that transformers does not load because it brings code; other errors are left to the caller.

    Raises:
        ConfigError: it brings code, and nobody asked for it to be run.
    """
    if SWITCH in str(error):
        raise ConfigError(
            f"{directory} brings Python code of its own (auto_map in its JSON files), which is not run unless you ask for it. Read the code, then "
            f"set model.{SWITCH}=true and model.revision to the commit that you read (in Python: {SWITCH}=True); other models that a run reads, "
            "such as teachers and guides, never run code"
        ) from error
