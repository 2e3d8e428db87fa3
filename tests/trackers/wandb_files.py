"""The files that Weights & Biases writes offline, read back: records of protocol buffers in blocks as LevelDB's log has them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER, START = 32768, 7, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def blobs(path: Path) -> Iterator[bytes]:
    """The records of one file."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, collected = START, b""
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEADER])
        position += HEADER
        part = data[position : position + length]
        position += length
        if kind == FULL:
            yield part
        elif kind == FIRST:
            collected = part
        elif kind == MIDDLE:
            collected += part
        elif kind == LAST:
            yield collected + part
        else:
            return


@dataclass
class Found:
    """What a file says: facts of the run, its configuration, rows of its history, its summary, artifacts and exit code."""

    run: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, set[str]] = field(default_factory=dict)
    exit_code: int | None = None

    def series(self, key: str) -> list[tuple[int, float]]:
        return [(row["step"], row[key]) for row in self.history if key in row]


def read(path: Path) -> Found:
    """Read one .wandb file."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = Found()

    def values(items: Any) -> dict[str, Any]:
        return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}

    for blob in blobs(path):
        record = Record.FromString(blob)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found.run.update(id=run.run_id, project=run.project, group=run.run_group, name=run.display_name, tags=list(run.tags))
            found.config.update(values(run.config.update))
        elif kind == "config":
            found.config.update(values(record.config.update))
        elif kind == "history":
            found.history.append(values(record.history.item))
        elif kind == "summary":
            found.summary.update(values(record.summary.update))
        elif kind == "artifact":
            found.artifacts[record.artifact.name] = {entry.path for entry in record.artifact.manifest.contents}
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found
