from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from stpipe.config.errors import ConfigError
from stpipe.data.docstring_formats import FORMATTERS, Options
from stpipe.data.docstring_scores import scored
from stpipe.data.docstrings import words
from stpipe.data.prepare import PreparedData
from stpipe.data.sources import SourceRequest, open_source
from tests.data.test_docstrings import PAIRS

Prepare = Callable[..., PreparedData]


class WordTeacher:
    """A small teacher: texts with the same words are near. It counts what it is asked for."""

    def __init__(self, identity: str = "words") -> None:
        self.identity = identity
        self.calls: list[int] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(len(texts))
        out = np.zeros((len(texts), 64), np.float32)
        for row, text in enumerate(texts):
            for word in words(text):
                out[row, xxhash.xxh64_intdigest(word.encode() + self.identity.encode()) % 64] += 1
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


def cosine(a: str, b: str, teacher: WordTeacher) -> float:
    """The score by a loop in double precision."""
    u, v = (teacher.encode([t])[0].tolist() for t in (a, b))
    return float(sum(x * y for x, y in zip(u, v, strict=True)))


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [4, 1]])
def test_labels_are_the_cosines_of_the_teacher(rows: list[int]) -> None:
    teacher = WordTeacher()
    options = Options("n-tuple-scores", negatives=3)
    table = scored(PAIRS, options, np.array(rows), teacher.encode).to_pylist()
    plain = FORMATTERS["n-tuple"](PAIRS, Options("n-tuple", negatives=3)).to_pylist()
    assert [{k: v for k, v in row.items() if k != "label"} for row in table] == [plain[i] for i in rows]
    for row in table:
        candidates = [row["positive"], row["negative_1"], row["negative_2"], row["negative_3"]]
        expected = [cosine(row["anchor"], text, teacher) for text in candidates]
        assert any(expected)
        np.testing.assert_allclose(row["label"], expected, atol=1e-6)


def test_a_margin_is_the_difference_of_two_scores() -> None:
    teacher, rows = WordTeacher(), np.arange(len(PAIRS))
    margins = scored(PAIRS, Options("triplet-score"), rows, teacher.encode).to_pylist()
    scores = scored(PAIRS, Options("n-tuple-scores", negatives=1), rows, teacher.encode).to_pylist()
    for margin, score in zip(margins, scores, strict=True):
        assert margin["negative_1"] == score["negative_1"]
        assert margin["label"] == pytest.approx(score["label"][0] - score["label"][1], abs=1e-12)
    assert len({round(row["label"], 6) for row in margins}) > 2


def test_only_texts_of_the_rows_are_encoded() -> None:
    teacher = WordTeacher()
    scored(PAIRS, Options("n-tuple-scores", negatives=2), np.array([3]), teacher.encode)
    assert teacher.calls == [1 + 3]


@pytest.fixture
def teacher(tmp_path: Path) -> WordTeacher:
    """A teacher that no other test has, so that no scores of it are cached; the pairs themselves are shared."""
    return WordTeacher(str(tmp_path))


def request(teacher: WordTeacher | None, uri: str = "stdlib://docstrings?format=n-tuple-scores", **keys: Any) -> SourceRequest:
    return SourceRequest(uri, teacher=teacher, **keys)


def test_scores_are_kept_by_content(teacher: WordTeacher) -> None:
    first = open_source(request(teacher, rows=20, seed=7)).table
    assert open_source(request(teacher, rows=20, seed=7)).table.equals(first)
    assert len(teacher.calls) == 1 and len(first) == 20
    variants = [
        request(teacher, rows=21, seed=7),
        request(teacher, rows=20, seed=8),
        request(teacher, rows=20, seed=7, splits=("test",)),
        request(teacher, "stdlib://docstrings?format=n-tuple-scores&negatives=2", rows=20, seed=7),
    ]
    for number, variant in enumerate(variants, start=2):
        assert not open_source(variant).table.equals(first)
        assert len(teacher.calls) == number
    other = WordTeacher(teacher.identity + "/other")
    again = open_source(request(other, rows=20, seed=7)).table
    assert other.calls == teacher.calls[:1]
    assert again.drop_columns("label").equals(first.drop_columns("label")) and not again["label"].equals(first["label"])


def test_texts_that_two_formats_need_are_encoded_once(teacher: WordTeacher) -> None:
    scores = open_source(request(teacher, "stdlib://docstrings?format=n-tuple-scores&negatives=1", rows=20)).table
    margins = open_source(request(teacher, "stdlib://docstrings?format=triplet-score", rows=20)).table
    assert len(teacher.calls) == 1
    assert margins["negative_1"].equals(scores["negative_1"])


def test_capped_rows_are_those_of_all_rows(run_prepare: Prepare, teacher: WordTeacher) -> None:
    """Scoring only what a cap leaves gives what scoring everything and capping then would."""
    uri = "stdlib://docstrings?format=triplet-score"
    some_rows = {"max_rows": 30, "eval_rows": 10, "split_seed": 5, "cache_dir": None}
    found = run_prepare(train=uri, teacher=teacher, **some_rows)
    whole = run_prepare(train=uri, teacher=teacher, cache_dir=None, eval_rows=1).train["default"]
    plain = run_prepare(train="stdlib://docstrings?format=triplet", **some_rows)
    assert len(whole) > 4000
    for split in ("train", "eval"):
        some, other = getattr(found, split)["default"], getattr(plain, split)["default"]
        assert some.format.name == "triplet-score" and len(some) == len(other) == (30 if split == "train" else 10)
        for role in ("anchor", "positive", "negative_1"):
            assert some.rows().columns[role][:] == other.rows().columns[role][:]
    labels, all_labels = found.train["default"].labels(), whole.labels()
    assert labels is not None and all_labels is not None and np.abs(labels).max() > 0
    known = dict(zip(whole.rows().columns["anchor"], all_labels.tolist(), strict=True))
    assert [known[a] for a in found.train["default"].rows().columns["anchor"]] == pytest.approx(labels.tolist(), abs=1e-6)


def test_batches_carry_the_scores(run_prepare: Prepare, teacher: WordTeacher) -> None:
    uri = "stdlib://docstrings?format=n-tuple-scores&negatives=4"
    source = run_prepare(train=uri, teacher=teacher, max_rows=16, cache_dir=None).train["default"]
    assert source.roles == ("anchor", "positive", "negative_1", "negative_2", "negative_3", "negative_4")
    scores = source.batch(np.array([2, 9])).targets.scores
    labels = source.rows().labels
    assert scores is not None and scores.shape == (2, 5) and labels is not None
    np.testing.assert_allclose(scores.numpy(), np.array([labels[2], labels[9]], np.float32))
    assert float(scores.std()) > 0


@pytest.mark.parametrize(
    ("uri", "by", "expected"),
    [
        ("stdlib://docstrings?format=triplet-score", None, "scores of a teacher, and there is none to ask"),
        (
            "stdlib://docstrings?format=triplet-score&negatives=3",
            WordTeacher(),
            "one negative; scores of several are format n-tuple-scores",
        ),
        ("stdlib://docstrings?format=n-tuple-scores&negatives=0", WordTeacher(), "expected an integer of at least 1"),
    ],
)
def test_what_cannot_be_scored_is_a_configuration_error(uri: str, by: WordTeacher | None, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        open_source(request(by, uri))
