"""What may be written to disk or shown: no secret, whether it came from the environment, a file or the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

REDACTED = "<redacted>"
#: `key: value` inside an argument that is a mapping; user and password in an address.
INSIDE = re.compile(r"(\w+)(\s*[:=]\s*)(\"[^\"]*\"|'[^']*'|[^\s,{}\[\]:=]+)")
ADDRESS = re.compile(r"(?<=://)[^/\s@]+@")
#: Characters below which a value is no secret but a word that texts are full of.
SHORTEST = 6
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
    """Command line arguments with the value of every `...secret=value` replaced, also inside `key={...}`."""
    shown = []
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        shown.append(f"{key}={REDACTED}" if equals and is_secret(key.split(".")[-1]) else INSIDE.sub(_inside, argument))
    return shown


def _inside(found: re.Match[str]) -> str:
    key, between = found[1], found[2]
    return f"{key}{between}{REDACTED}" if is_secret(key) else found[0]


def secrets_of(values: Any) -> list[str]:
    """The texts that stand at secret keys."""
    if isinstance(values, Mapping):
        own = [v for k, v in values.items() if is_secret(str(k)) and isinstance(v, str)]
        return own + [s for v in values.values() for s in secrets_of(v)]
    return [s for v in values for s in secrets_of(v)] if isinstance(values, (list, tuple)) else []


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """A text of somebody else, like the error of a library, without passwords in addresses and without secrets.

    Args:
        text: to be shown or written.
        secrets: values that must not be in it, besides those of environment variables with the name of a secret.
    """
    environment = (value for name, value in os.environ.items() if is_secret(name))
    for secret in sorted({*secrets, *environment}, key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, REDACTED)
    return ADDRESS.sub(REDACTED + "@", text)
