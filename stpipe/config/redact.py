"""What may be written to disk or shown: no secret, whether it came from the environment, a file or the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

REDACTED = "<redacted>"
SECRET = re.compile(r"(^|_)(token|secret|password|passwd|passphrase|credentials?|(api|access|private|secret)_?key)$", re.IGNORECASE)


def is_secret(key: str) -> bool:
    """True for names of keys that hold a secret (`hub_token`, `api_key`), not for `token_budget`."""
    return SECRET.search(key) is not None


def redact_secrets(values: Any) -> Any:
    """A copy in which the text of every secret key is replaced."""
    if isinstance(values, Mapping):
        return {k: REDACTED if is_secret(str(k)) and isinstance(v, str) and "${" not in v else redact_secrets(v) for k, v in values.items()}
    return [redact_secrets(v) for v in values] if isinstance(values, (list, tuple)) else values


def redact_command(arguments: Sequence[str]) -> list[str]:
    """Command line arguments with the value of every `...secret=value` replaced."""
    shown = []
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        shown.append(f"{key}={REDACTED}" if equals and is_secret(key.split(".")[-1]) else argument)
    return shown
