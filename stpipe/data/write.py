"""Loaded rows -> tokenised rows in the cache, once for each distinct input."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tokenizers
import xxhash

from stpipe.core.tokenize import prompt_length
from stpipe.data.cache import cache_root, digest, make_once
from stpipe.data.load import Loaded
from stpipe.data.prepared import META, ROWS, PreparedSource
from stpipe.data.store import write_store
from stpipe.data.texts import TextTable, compact, text_bytes

VERSION = 1


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the texts of one role become tokens; roles whose encodings are equal share their stored texts.

    prompt: put before each text; max_length: longest result (None: the tokenizer's limit); special_tokens: add them;
    fingerprint: of the tokenizer, which stands for it in comparisons.
    """

    prompt: str
    max_length: int | None
    special_tokens: bool
    fingerprint: str
    tokenizer: Any = field(compare=False, repr=False)

    def key(self) -> tuple[Any, ...]:
        """Everything that decides which tokens a text becomes."""
        return (self.prompt, self.max_length, self.special_tokens, self.fingerprint)


@dataclass(frozen=True, slots=True)
class TokenizeOptions:
    """Where the cache is, how many processes tokenise, who is told: none of it changes a result."""

    cache_dir: str | None = None
    num_proc: int = 1
    progress: Callable[[str, int, int], None] | None = None


def tokenizer_fingerprint(tokenizer: Any, tokenizer_id: str = "") -> str:
    """Hash of all that decides what the tokenizer returns; the name counts only for tokenizers that cannot be serialised."""
    special = {k: str(v) for k, v in sorted(tokenizer.special_tokens_map.items())}
    facts: dict[str, Any] = {"class": type(tokenizer).__name__, "special": special, "limit": tokenizer.model_max_length}
    facts["versions"] = [tokenizers.__version__, importlib.metadata.version("transformers")]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        facts["state"] = {k: v for k, v in state.items() if k not in ("truncation", "padding")}
    else:
        facts["state"] = [tokenizer_id, sorted(tokenizer.get_vocab().items()), repr(sorted(tokenizer.init_kwargs.items(), key=str))]
    facts["sides"] = [tokenizer.truncation_side, tokenizer.padding_side]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:32]


def data_fingerprint(loaded: Loaded) -> str:
    """Hash of the content of the rows by role, in order."""
    state = xxhash.xxh3_128(f"{loaded.format.name} {len(loaded)}".encode())
    ends, data = text_bytes(loaded.texts.texts)
    state.update(ends.tobytes())
    state.update(data)
    for role, texts in loaded.texts.roles.items():
        state.update(role.encode())
        for array in (texts.index, texts.offsets):
            state.update(b"" if array is None else array.tobytes())
    if loaded.labels is not None:
        state.update(repr(loaded.labels.classes).encode())
        for array in (loaded.labels.values, loaded.labels.offsets):
            state.update(b"" if array is None else array.tobytes())
    return state.hexdigest()


def write_prepared(loaded: Loaded, encodings: Mapping[str, Encoding], options: TokenizeOptions, *, name: str) -> PreparedSource:
    """The rows in the cache: found there, or tokenised now."""
    fingerprint = data_fingerprint(loaded)
    key = digest(
        {
            "version": VERSION,
            "data": fingerprint,
            "encodings": {role: encoding.key() for role, encoding in encodings.items()},
        }
    )
    folder = cache_root(options.cache_dir) / "tokens" / key
    make_once(folder, lambda into: _write(into, loaded, encodings, options, name, fingerprint))
    return PreparedSource(folder, name=name)


def _write(into: Path, loaded: Loaded, encodings: Mapping[str, Encoding], options: TokenizeOptions, name: str, fingerprint: str) -> None:
    kinds = list(dict.fromkeys(encodings[role] for role in loaded.texts.roles))
    roles: dict[str, Any] = {}
    columns: dict[str, pa.Array] = {}
    stores = [f"texts-{number}.arrow" for number in range(len(kinds))]
    for number, encoding in enumerate(kinds):
        mine = {role: texts for role, texts in loaded.texts.roles.items() if encodings[role] == encoding}
        table = compact(TextTable(loaded.texts.texts, mine))
        what = f"tokenise {name}: {', '.join(mine)}"
        write_store(
            into / stores[number],
            table.texts,
            tokenizer=encoding.tokenizer,
            prompt=encoding.prompt,
            max_length=encoding.max_length,
            special_tokens=encoding.special_tokens,
            num_proc=options.num_proc,
            progress=lambda done, total, what=what: options.progress(what, done, total) if options.progress else None,  # type: ignore[misc]
        )
        length = prompt_length(encoding.tokenizer, encoding.prompt, special_tokens=encoding.special_tokens)
        for role, texts in table.roles.items():
            roles[role] = {"store": number, "prompt": encoding.prompt, "prompt_length": length, "max_length": encoding.max_length}
            columns[role] = _array(texts.index, texts.offsets)
    if loaded.labels is not None:
        columns["label"] = _array(loaded.labels.values, loaded.labels.offsets)
    with pa.ipc.new_file(str(into / ROWS), pa.table(columns).schema) as writer:
        writer.write_batch(pa.RecordBatch.from_pydict(columns))
    classes = None if loaded.labels is None or loaded.labels.classes is None else list(loaded.labels.classes)
    meta = {
        "format": loaded.format.name,
        "rows": len(loaded),
        "roles": {role: roles[role] for role in loaded.texts.roles},
        "stores": stores,
        "classes": classes,
        "fingerprint": fingerprint,
    }
    (into / META).write_text(json.dumps(meta))


def _array(values: np.ndarray, offsets: np.ndarray | None) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values))
    return flat if offsets is None else pa.LargeListArray.from_arrays(pa.array(offsets), flat)
