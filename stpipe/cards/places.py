"""What may be published of names and paths: Hub ids and addresses whole, of places on somebody's disk the last part."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz")
#: An address whose rest is a place on this disk.
PLACE = "parallel://"
#: Places inside a value that is a list or a mapping.
INSIDE = re.compile(r"""(?:(?<![^\s=,{\['"])|(?<=:)(?!//))(?:parallel://|/|~|\.{1,2}[/\\]|[A-Za-z]:[/\\])[^\s'",{}\[\]]*""")
LOCAL = re.compile(r"^(?:parallel://|/|~|\.{1,2}[/\\]|[A-Za-z]:[/\\])")


def hub_id(name: Any) -> str | None:
    """`name` when it can only be a Hub id: organisation and name, no scheme, nothing on this disk."""
    if not isinstance(name, str) or HUB_ID.fullmatch(name) is None or ".." in name or Path(name).suffix in DATA_SUFFIXES:
        return None
    return None if Path(name).exists() else name


def published(source: str) -> str:
    """A source as it may be published: Hub ids and URLs whole, of local paths the last part only."""
    if source.startswith(PLACE):
        return PLACE + published(source.removeprefix(PLACE).partition("?")[0])
    if "://" in source or hub_id(source):
        return source
    return source.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def published_value(value: Any) -> Any:
    """A configuration value in which every text that is a local path is cut to its last part."""
    if isinstance(value, Mapping):
        return {key: published_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [published_value(inner) for inner in value]
    return published(value) if isinstance(value, str) and LOCAL.match(value) else value


def published_command(command: str | list[str]) -> str:
    """A command line with the local paths in its words cut to their last part."""
    try:
        words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    except ValueError:  # quotes that do not close: it was not written by shlex.join
        words = str(command).split()
    return shlex.join(_published_word(word) for word in words)


def _published_word(word: str) -> str:
    if PLACE in word or any(c in word for c in "{["):
        return INSIDE.sub(lambda match: published(match[0]), word)
    key, equals, value = word.rpartition("=")
    bare = value.strip("'\"")
    return f"{key}{equals}{published(bare)}" if LOCAL.match(bare) else word
