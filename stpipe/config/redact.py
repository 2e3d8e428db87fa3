"""What may be written to disk or shown: no secret, whether it came from the environment, a file or the command line.

This is the only place that knows what a secret is. Secrets are told by the names of their keys (`hub_token`, `db_password`), by the names
of environment variables, by where they stand in an address (user:password@, ?token=), and by their looks (`hf_...`). Values that a
configuration gives to such keys are remembered by the process that composes it, so that whatever it writes or shows later, like the
error of a library, can be cleaned of them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

REDACTED = "<redacted>"
#: Names of keys and of environment variables that hold a secret.
SECRET = re.compile(
    r"token(?!s|i[sz]|_?(budget|type|id|limit|count|length|len|dim|mask|embedding)|ed)|secret|passw(or)?d|pass_?phrase|credential"
    r"|(api|access|private|signing|encryption)[_-]?key",
    re.IGNORECASE,
)
#: Keys of stpipe that are called so and hold none.
HARMLESS = frozenset({"true_token", "false_token"})
#: `key: value` inside an argument that is a mapping. Interpolations stay: they name a variable, not what it holds.
INSIDE = re.compile(r"([\w-]+)([\"']?[ \t]*[:=][ \t]*)(\"[^\"]*\"|'[^']*'|(?!\$\{)[^\s,{}\[\]:=\"']+)")
#: User and password in an address; a parameter of its query.
ADDRESS = re.compile(r"(?<=://)[^/\s'\"<>]*@")
QUERY = re.compile(r"([?&;])([\w.-]+)=([^&;#\s'\"<>]+)")
#: Tokens that can be told by their looks, of the Hugging Face Hub, GitHub and AWS.
SHAPES = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|gh[opsur]_[A-Za-z0-9]{30,}|AKIA[A-Z0-9]{16})\b")
#: Characters below which a value is no secret but a word that texts are full of. A configuration is to be repeated, so its other
#: values give way to long ones only: somebody's password may be `default`.
SHORTEST, SHORTEST_IN_VALUES = 6, 12
NOTHING = ("", "null", "none", "true", "false", "???")

_remembered: set[str] = set()


def is_secret(key: str) -> bool:
    """True for names of keys that hold a secret (`hub_token`, `api_key`), not for `token_budget`."""
    return SECRET.search(key) is not None and key not in HARMLESS


def remember_secrets(values: Any) -> None:
    """Note what stands at secret keys of a configuration: `scrub` takes it out of every text of this process from now on."""
    _remembered.update(secrets_of(values))


def remember_command(arguments: Iterable[str]) -> None:
    """The same for command line arguments, before anything is known about them."""
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and is_secret(_last(key)):
            _remembered.add(value.strip("'\""))
        else:
            _remembered.update(match[3].strip("'\"") for match in INSIDE.finditer(argument) if is_secret(match[1]))


def redact_secrets(values: Any) -> Any:
    """A copy in which the text of every secret key is replaced, and secrets inside other texts. Interpolations stay as written."""
    return _redacted(values, known_secrets(shortest=SHORTEST_IN_VALUES))


def _redacted(values: Any, secrets: Sequence[str]) -> Any:
    if isinstance(values, Mapping):
        return {k: _hidden(v) if is_own(k, v) else _redacted(v, secrets) for k, v in values.items()}
    if isinstance(values, (list, tuple)):
        return [_redacted(v, secrets) for v in values]
    return _without(values, secrets) if isinstance(values, str) else values


def is_own(key: Any, value: Any) -> bool:
    """Whether a key has a secret of its own: a text, or texts. What is below a name, like that of a data set, has keys of its own."""
    return isinstance(key, str) and not isinstance(value, Mapping) and is_secret(key)


def _hidden(value: Any) -> Any:
    """What stands at a secret key, with all its texts replaced."""
    if isinstance(value, (list, tuple)):
        return [_hidden(v) for v in value]
    return REDACTED if isinstance(value, str) and "${" not in value else value


def redact_command(arguments: Sequence[str]) -> list[str]:
    """Command line arguments with the value of every `...secret=value` replaced, also inside `key={...}` and in addresses."""
    secrets = known_secrets()
    shown = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and is_secret(_last(key)) and value.lower() not in NOTHING and not value.startswith("${"):
            shown.append(f"{key}={REDACTED}")
        else:
            shown.append(_without(redact_text(argument), secrets))
    return shown


def redact_text(text: str) -> str:
    """A text that holds `key: value` or `key=value`, like YAML, with the values of secret keys replaced."""
    return INSIDE.sub(_inside, text)


def _inside(found: re.Match[str]) -> str:
    key, between, value = found[1], found[2], found[3]
    is_hidden = is_secret(key) and value.strip("'\"").lower() not in NOTHING and "${" not in value
    return f"{key}{between}{REDACTED}" if is_hidden else found[0]


def _last(key: str) -> str:
    return key.split(".")[-1]


def secrets_of(values: Any) -> list[str]:
    """The texts that stand at secret keys."""
    if isinstance(values, Mapping):
        own = [text for k, v in values.items() if is_own(k, v) for text in _texts(v)]
        return own + [s for k, v in values.items() if not is_own(k, v) for s in secrets_of(v)]
    return [s for v in values for s in secrets_of(v)] if isinstance(values, (list, tuple)) else []


def _texts(value: Any) -> list[str]:
    if isinstance(value, (list, tuple)):
        return [text for v in value for text in _texts(v)]
    return [value] if isinstance(value, str) else []


def known_secrets(further: Iterable[str] = (), *, shortest: int = SHORTEST) -> tuple[str, ...]:
    """Secrets of the environment, of the configurations of this process, and further ones; the longest first, each in all its spellings."""
    environment = (value for name, value in os.environ.items() if is_secret(name))
    found = {s for s in (*further, *_remembered, *environment) if len(s) >= shortest and s.lower() not in NOTHING and "${" not in s}
    spellings = {s for secret in found for s in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe=""))}
    return tuple(sorted(spellings, key=len, reverse=True))


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """A text, like the error of a library, without passwords in addresses and without secrets.

    Args:
        text: to be shown or written.
        secrets: values that must not be in it, besides those of environment variables with the name of a secret and those of
            configurations that this process has composed.
    """
    return _without(text, known_secrets(secrets))


def scrub_values(values: Any) -> Any:
    """Plain JSON with every text scrubbed, and the texts of secret keys replaced: for records that hold texts of others."""
    return _redacted(values, known_secrets())


def _without(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    if "://" in text:
        text = QUERY.sub(_parameter, ADDRESS.sub(REDACTED + "@", text))
    return SHAPES.sub(REDACTED, text)


def _parameter(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}={REDACTED}" if is_secret(found[2]) else found[0]
