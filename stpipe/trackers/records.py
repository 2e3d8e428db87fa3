"""metrics.jsonl as it grows. It is the queue between the run and its trackers: bounded by the disk, and still there after a crash."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Bytes that are read at a time; what a tracker has not taken yet stays in the file.
CHUNK = 1 << 20


@dataclass(frozen=True)
class Record:
    """One line of metrics.jsonl; `time` in seconds since 1970."""

    step: int
    epoch: float
    split: str
    name: str
    value: float
    time: float

    @property
    def key(self) -> str:
        """Name of the series: `train/loss`, `eval/dev_cosine_ndcg@10`, `final/...`."""
        return f"{self.split}/{self.name}"


class Tail:
    """Reads what is new in a file of records. A resumed run puts a shorter file in its place, which is then read from the start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._inode = -1

    def read(self) -> list[Record]:
        """The next records, those of about a megabyte at most; a line that is not finished is left for later, one that is no record is dropped."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._inode or found.st_size < self._offset:
                self._inode, self._offset = found.st_ino, 0
            file.seek(self._offset)
            while True:
                data = file.read(CHUNK)
                whole = data[: data.rfind(b"\n") + 1]
                self._offset += len(whole)
                new = list(records(whole.decode("utf-8", errors="replace")))
                if new or not whole:
                    return new
                file.seek(self._offset)


def records(text: str) -> Iterator[Record]:
    """The records of some lines."""
    for line in text.splitlines():
        try:
            raw = json.loads(line)
            value = math.nan if raw["value"] is None else float(raw["value"])
            yield Record(int(raw["step"]), float(raw["epoch"]), str(raw["split"]), str(raw["name"]), value, float(raw["time"]))
        except (ValueError, KeyError, TypeError):
            continue
