"""Rows that are held in memory and tokenised as batches ask for them: what a stream puts in the place of prepared data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from stpipe.core.tokenize import prompt_length, tokenize_counted
from stpipe.data.load import Loaded
from stpipe.data.prepared import PreparedSource
from stpipe.data.store import hashes
from stpipe.data.write import Encoding


@dataclass(frozen=True)
class Encodings:
    """How the texts of each role become tokens. kinds: distinct encodings; roles: role -> what PreparedSource knows of it."""

    kinds: tuple[Encoding, ...]
    roles: Mapping[str, Mapping[str, Any]]

    @staticmethod
    def of(encodings: Mapping[str, Encoding]) -> Encodings:
        kinds = tuple(dict.fromkeys(encodings.values()))
        lengths = [prompt_length(kind.tokenizer, kind.prompt, special_tokens=kind.special_tokens) for kind in kinds]
        roles = {
            role: {
                "store": (number := kinds.index(encoding)),
                "prompt": encoding.prompt,
                "prompt_length": lengths[number],
                "max_length": encoding.max_length,
            }
            for role, encoding in encodings.items()
        }
        return Encodings(kinds, roles)


class BufferedStore:
    """Distinct texts of one encoding, each tokenised when it is first asked for. See data/store.py: TextStore."""

    def __init__(self, texts: pa.Array, encoding: Encoding) -> None:
        self.texts: pa.ChunkedArray = pa.chunked_array([texts])
        self.encoding = encoding
        self._ids: dict[int, np.ndarray] = {}
        self._full = np.zeros(len(texts), np.int64)

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def text_ids(self) -> np.ndarray:
        """(N,) int64 hash of prompt and text of each text."""
        return hashes(self.texts.to_pylist(), self.encoding.prompt)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64 tokens of each text; all of them are tokenised for it."""
        return self.tokens(np.arange(len(self)))[1]

    @property
    def full_lengths(self) -> np.ndarray:
        """(N,) int64 tokens of each text before it is cut; all of them are tokenised for it."""
        return self.whole_lengths(np.arange(len(self)))

    def tokens(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(ids of some texts laid end to end, int64; (N,) int64 tokens of each)."""
        self._tokenize(index)
        found = [self._ids[place] for place in index.tolist()]
        lengths = np.fromiter((ids.size for ids in found), np.int64, len(found))
        return np.concatenate([np.zeros(0, np.int64), *found]), lengths

    def whole_lengths(self, index: np.ndarray) -> np.ndarray:
        """(N,) int64 tokens that some texts have before they are cut."""
        self._tokenize(index)
        return self._full[index]

    def _tokenize(self, index: np.ndarray) -> None:
        new = [place for place in np.unique(index).tolist() if place not in self._ids]
        if not new:
            return
        how = self.encoding
        texts = self.texts.take(pa.array(new)).to_pylist()
        ids, full = tokenize_counted(how.tokenizer, texts, prompt=how.prompt, max_length=how.max_length, special_tokens=how.special_tokens)
        self._ids.update(zip(new, (np.array(i, np.int64) for i in ids), strict=True))
        self._full[new] = full


class BufferedSource(PreparedSource):
    """Some rows of one data set in memory, for samplers and collators.

    Args:
        loaded: the rows, checked.
        encodings: of its roles.
        name: of the data set.
        classes: names of the classes of the whole data set.
    """

    def __init__(self, loaded: Loaded, encodings: Encodings, *, name: str, classes: tuple[str, ...] | None) -> None:
        self.name = name
        self._meta = {
            "format": loaded.format.name,
            "rows": len(loaded),
            "roles": {role: encodings.roles[role] for role in loaded.texts.roles},
            "classes": classes,
            "fingerprint": "",
        }
        self._stores = tuple(BufferedStore(loaded.texts.texts, kind) for kind in encodings.kinds)
        self._columns = dict(loaded.texts.roles)
        self._labels = loaded.labels
