"""Embeddings on disk: nothing is encoded twice, an interruption loses a shard at most, and damage is found."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from stpipe.config.errors import ConfigError, TrainingError
from stpipe.search.embedding_cache import SPARSE, EmbeddingCache, text_hashes

TEXTS = [f"text {i}" for i in range(23)]


def vector(text: str) -> list[float]:
    return [b / 255 for b in hashlib.sha256(text.encode()).digest()[:6]]


class Encoder:
    """Counts what it is asked for; can stop in the middle."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.calls: list[list[str]] = []
        self.stop_after = stop_after

    def __call__(self, texts: list[str]) -> np.ndarray:
        if len(self.calls) == self.stop_after:
            raise KeyboardInterrupt
        self.calls.append(texts)
        return np.array([vector(t) for t in texts], np.float32)

    @property
    def texts(self) -> list[str]:
        return [t for call in self.calls for t in call]


def cache(folder: Path, **changes: object) -> EmbeddingCache:
    return EmbeddingCache(folder, **{"identity": "model", "way": ["query", ""], "shard_size": 5, **changes})  # type: ignore[arg-type]


def expected(texts: list[str]) -> np.ndarray:
    return np.array([vector(t) for t in texts], np.float32)


def test_each_text_is_encoded_once(tmp_path: Path) -> None:
    encode = Encoder()
    texts = [*TEXTS, TEXTS[3], TEXTS[0]]
    found = cache(tmp_path).embed(texts, encode)
    assert len(found) == 25 and np.array_equal(found[slice(0, 25)], expected(texts))
    assert [len(c) for c in encode.calls] == [5, 5, 5, 5, 3]
    again = cache(tmp_path).embed(texts[::-1], encode)
    assert np.array_equal(again[np.arange(25)], expected(texts[::-1])) and len(encode.calls) == 5
    more = cache(tmp_path).embed(["new", *TEXTS[:2]], encode)
    assert encode.calls[-1] == ["new"] and np.array_equal(more[np.array([2, 0])], expected([TEXTS[1], "new"]))


def test_progress_counts_what_is_there(tmp_path: Path) -> None:
    cache(tmp_path).embed(TEXTS[:10], Encoder())
    told: list[tuple[str, int, int]] = []
    cache(tmp_path).embed(TEXTS, Encoder(), what="encode corpus", progress=lambda *seen: told.append(seen))
    assert told == [("encode corpus", 15, 23), ("encode corpus", 20, 23), ("encode corpus", 23, 23)]


def test_an_interrupted_corpus_continues_with_the_same_shards(tmp_path: Path) -> None:
    whole = Encoder()
    cache(tmp_path / "whole").embed(TEXTS, whole)
    cut = Encoder(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        cache(tmp_path / "cut").embed(TEXTS, cut)
    rest = Encoder()
    found = cache(tmp_path / "cut").embed(TEXTS, rest)
    assert np.array_equal(found[slice(None)], expected(TEXTS))
    assert cut.calls + rest.calls == whole.calls
    files = [{p.relative_to(root): p.read_bytes() for p in root.rglob("*.npy")} for root in (tmp_path / "whole", tmp_path / "cut")]
    assert files[0] == files[1] and len(files[0]) == 10


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_shards_are_done_again(tmp_path: Path, damage: str) -> None:
    cache(tmp_path).embed(TEXTS, Encoder())
    victim = sorted(tmp_path.rglob("vectors.npy"))[1]
    data = victim.read_bytes()
    if damage == "remove":
        victim.unlink()
    else:
        victim.write_bytes(data[:-4] if damage == "cut" else data[:-4] + bytes([data[-4] ^ 1]) + data[-3:])
    encode = Encoder()
    found = cache(tmp_path).embed(TEXTS, encode)
    assert encode.calls == [TEXTS[5:10]]
    assert np.array_equal(found[slice(None)], expected(TEXTS)) and victim.read_bytes() == data


def test_other_models_prompts_and_sides_have_caches_of_their_own(tmp_path: Path) -> None:
    for changes in ({}, {"identity": "other"}, {"way": ["document", ""]}, {"way": ["query", "search: "]}):
        encode = Encoder()
        cache(tmp_path, **changes).embed(TEXTS[:3], encode)
        assert encode.texts == TEXTS[:3]


def test_sparse_rows_come_back_in_order(tmp_path: Path) -> None:
    rows = sparse.random_array((23, 50), density=0.1, format="csr", random_state=np.random.default_rng(0), dtype=np.float32)
    number = {text: i for i, text in enumerate(TEXTS)}
    kept = cache(tmp_path, rows=SPARSE)
    found = kept.embed(TEXTS, lambda texts: rows[[number[t] for t in texts]])
    order = np.random.default_rng(1).permutation(23)
    assert np.array_equal(found[order].toarray(), rows[order].toarray()) and found[order].nnz > 20
    assert np.array_equal(found[3:17].toarray(), rows[3:17].toarray())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_has_diverged_leaves_nothing(tmp_path: Path, value: float) -> None:
    def encode(texts: list[str]) -> np.ndarray:
        rows = expected(texts)
        rows[2] = value
        return rows

    with pytest.raises(TrainingError, match=r"NaN or infinite values for 1 of 5 texts \(the first is number 2"):
        cache(tmp_path).embed(TEXTS, encode)
    assert list(tmp_path.rglob("*.npy")) == []


def test_two_at_once_do_the_work_once(tmp_path: Path) -> None:
    encode = Encoder()

    def slow(texts: list[str]) -> np.ndarray:
        time.sleep(0.02)
        return encode(texts)

    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(cache(tmp_path).embed(TEXTS, slow)[slice(None)])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(encode.texts) == sorted(TEXTS)
    assert len(found) == 3 and all(np.array_equal(rows, expected(TEXTS)) for rows in found)


def test_an_unwritable_folder_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written.*mine\.cache_dir"):
        cache(tmp_path / "file").embed(TEXTS, Encoder())


def test_hashes_tell_texts_apart() -> None:
    hashes = text_hashes(["a", "b", "a", "", "\ud800"])
    assert hashes.shape == (5, 2) and (hashes[0] == hashes[2]).all() and len({tuple(h) for h in hashes.tolist()}) == 4
