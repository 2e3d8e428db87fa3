"""Prepared data: rows as numbers into stored tokens, read through memory maps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from stpipe.config.formats import FORMATS, Format
from stpipe.core.batch import Batch, Targets, TextColumn
from stpipe.core.rows import Rows
from stpipe.core.tokens import Tokens
from stpipe.data.labels import Labels
from stpipe.data.store import Store, TextStore
from stpipe.data.texts import TextRole, TextSequence, offsets_of

META = "meta.json"
ROWS = "rows.arrow"


class PreparedSource:
    """One data set, tokenised and on disk. Opening it reads almost nothing; it pickles as its path.

    Args:
        folder: folder in the token cache.
        name: name of the data set.
    """

    #: Where all rows come from, when these are only the first of them (data/windows.py).
    stream: Any = None

    def __init__(self, folder: str | Path, *, name: str = "default") -> None:
        self.folder = Path(folder)
        self.name = name

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "name": self.name}

    def __repr__(self) -> str:
        return f"PreparedSource({self.name}: {len(self)} rows of {self.format.name}, {self.fingerprint[:12]})"

    def __len__(self) -> int:
        return int(self._meta["rows"])

    @cached_property
    def _meta(self) -> dict[str, Any]:
        return json.loads((self.folder / META).read_text())

    @property
    def total_rows(self) -> int | None:
        """Rows of the whole data set; None for a stream, whose first rows these are."""
        return len(self) if self.stream is None else None

    @property
    def format(self) -> Format:
        return FORMATS[self._meta["format"]]

    @property
    def roles(self) -> tuple[str, ...]:
        """The text roles in canonical order."""
        return tuple(self._meta["roles"])

    @property
    def fingerprint(self) -> str:
        """Hash of the content of the rows by role, in order: neither of the tokenizer nor of where they were read."""
        return str(self._meta["fingerprint"])

    @property
    def prompts(self) -> Mapping[str, str]:
        """Role -> text put before each of its texts."""
        return {role: str(facts["prompt"]) for role, facts in self._meta["roles"].items()}

    @property
    def max_lengths(self) -> Mapping[str, int | None]:
        """Role -> longest text in tokens; None is the tokenizer's limit."""
        return {role: facts["max_length"] for role, facts in self._meta["roles"].items()}

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes 0, 1, ... when the label column held names."""
        names = self._meta["classes"]
        return None if names is None else tuple(names)

    @cached_property
    def _stores(self) -> tuple[Store, ...]:
        return tuple(TextStore(self.folder / name) for name in self._meta["stores"])

    @cached_property
    def _columns(self) -> dict[str, TextRole]:
        table = self._rows_table
        return {role: TextRole(*_arrays(table[role])) for role in self.roles}

    @cached_property
    def _labels(self) -> Labels | None:
        if self.format.label is None:
            return None
        values, offsets = _arrays(self._rows_table["label"])
        return Labels(self.format.label, values, np.zeros(len(self), bool), offsets, self.classes)

    @cached_property
    def _rows_table(self) -> pa.Table:
        return pa.ipc.open_file(pa.memory_map(str(self.folder / ROWS))).read_all()

    def store(self, role: str) -> Store:
        """The distinct texts that the role draws from."""
        return self._stores[self._meta["roles"][role]["store"]]

    def role(self, role: str) -> TextRole:
        """Which of the texts in its store the role has in each row."""
        return self._columns[role]

    def index(self, role: str) -> np.ndarray:
        """(N,) int64 place of each text of a role in its store."""
        return self._columns[role].index

    def lengths(self, role: str) -> np.ndarray:
        """(N,) int64 tokens of each text of a role; N is the number of rows, or of all texts for the ragged role `documents`."""
        return self.store(role).lengths[self._columns[role].index]

    def text_ids(self, role: str) -> np.ndarray:
        """(N,) int64 hash of prompt and text of each text of a role, in the order of `lengths`."""
        return self.text_ids_of(role, self._columns[role])

    def text_ids_of(self, role: str, texts: TextRole) -> np.ndarray:
        """The same for some texts of the role."""
        return self.store(role).text_ids[texts.index]

    def full_lengths(self, role: str, texts: TextRole) -> np.ndarray:
        """(N,) int64 tokens that some texts of the role have before they are cut."""
        return self.store(role).whole_lengths(texts.index)

    def texts_of(self, role: str, texts: TextRole) -> list[str]:
        """The texts themselves, without prompt."""
        found: list[str] = self.store(role).texts.take(pa.array(texts.index)).to_pylist() if texts.index.size else []
        return found

    def counts(self, role: str) -> np.ndarray:
        """(rows,) int64 texts of each row: ones, but for the ragged role `documents`."""
        return self._columns[role].counts()

    def is_ragged(self, role: str) -> bool:
        """True when a row has a list of texts."""
        return self._columns[role].offsets is not None

    def row_tokens(self) -> np.ndarray:
        """(rows,) int64 tokens of all texts of each row."""
        total = np.zeros(len(self), np.int64)
        for role in self.roles:
            lengths, offsets = self.lengths(role), self._columns[role].offsets
            running = offsets_of(lengths)
            total += lengths if offsets is None else running[offsets[1:]] - running[offsets[:-1]]
        return total

    def labels(self) -> np.ndarray | None:
        """(rows,) float64 scores or int64 classes; (rows, D) float32 vectors; (rows,) arrays of float64 for lists; None without label."""
        labels = self._labels
        if labels is None or labels.offsets is None:
            return None if labels is None else labels.values
        if labels.kind == "vector":
            return labels.values.reshape(len(self), -1)
        out = np.empty(len(self), object)
        out[:] = np.split(labels.values, labels.offsets[1:-1])
        return out

    def rows(self) -> Rows:
        """Raw texts and labels by role; texts are read when they are asked for."""
        columns = {role: TextSequence(self.store(role).texts, self._columns[role]) for role in self.roles}
        labels = self.labels()
        if labels is not None and self.format.label == "scores":
            return Rows(columns, [list(map(float, v)) for v in labels], self.format.name, self.prompts, self.name)
        return Rows(columns, None if labels is None else labels.tolist(), self.format.name, self.prompts, self.name, self.classes)

    def sample(self, numbers: np.ndarray) -> Rows:
        """Raw texts and labels of some rows (int64 row numbers) only, in that order; nothing else is read."""
        columns = {role: TextSequence(self.store(role).texts, self._columns[role].take(numbers)) for role in self.roles}
        labels = None if self._labels is None else self._labels.take(numbers)
        if labels is None or labels.offsets is None:
            return Rows(columns, None if labels is None else labels.values.tolist(), self.format.name, self.prompts, self.name)
        lists = [part.tolist() for part in np.split(labels.values, labels.offsets[1:-1])]
        return Rows(columns, lists, self.format.name, self.prompts, self.name)

    def batch(self, rows: np.ndarray) -> Batch:
        """The rows (int64 row numbers) with their tokens, in that order."""
        columns = {role: self.text_column(role, self._columns[role].take(rows)) for role in self.roles}
        return Batch(columns, self.targets(rows), torch.from_numpy(np.array(rows, np.int64)), self.name)

    def text_column(self, role: str, part: TextRole) -> TextColumn:
        """Some texts of a role with their tokens."""
        store = self.store(role)
        ids, lengths = store.tokens(part.index)
        prompt_length = self._meta["roles"][role]["prompt_length"]
        prompts = torch.from_numpy(np.minimum(lengths, prompt_length)) if prompt_length else None
        counts = None if part.offsets is None else torch.from_numpy(part.counts())
        return TextColumn(
            Tokens(torch.from_numpy(ids), torch.from_numpy(lengths), prompts), torch.from_numpy(store.text_ids[part.index]), counts
        )

    def targets(self, rows: np.ndarray) -> Targets:
        """The labels of some rows."""
        if self._labels is None:
            return Targets()
        return TARGETS[self._labels.kind](self._labels.take(rows))


def _scores(labels: Labels) -> Targets:
    """(B, K) with K the longest list; rows with fewer documents are filled with NaN, which no loss may read."""
    assert labels.offsets is not None
    counts = np.diff(labels.offsets)
    filled = np.full((counts.size, int(counts.max(initial=0))), np.nan, np.float32)
    filled[np.arange(filled.shape[1])[None, :] < counts[:, None]] = labels.values
    return Targets(scores=torch.from_numpy(filled))


def _vectors(labels: Labels) -> Targets:
    return Targets(vectors={"*": torch.from_numpy(labels.values.reshape(len(labels), -1))})


TARGETS = {
    "score": lambda labels: Targets(score=torch.from_numpy(labels.values.astype(np.float32))),
    "class": lambda labels: Targets(label=torch.from_numpy(labels.values)),
    "scores": _scores,
    "vector": _vectors,
}


def _arrays(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray | None]:
    """(values, offsets) of a column that was written as one chunk, without copying; offsets are None for plain columns."""
    array = column.chunk(0)
    if pa.types.is_large_list(array.type):
        return array.values.to_numpy(), array.offsets.to_numpy()
    return array.to_numpy(), None
