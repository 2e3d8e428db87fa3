"""The teacher of embedded data: the packaged model, loaded when scores are wanted, without a trace in the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from stpipe.config.errors import ConfigError
from stpipe.config.sections import DatasetSection
from stpipe.core.tokenize import RoleTokenizer
from stpipe.data.prepare import prepare
from stpipe.models.tokenizer import load_tokenizer
from stpipe.pipeline.teacher import PackagedTeacher
from tests.pipeline.conftest import Command

TEXTS = ["Return the sum of two numbers.", "def add(a, b):\n    return a + b", "Open the file for reading."] * 2


def test_embeddings_are_those_of_the_model(package_model: Path) -> None:
    oracle = pytest.importorskip("sentence_transformers").SentenceTransformer(str(package_model), device="cpu")
    expected = oracle.encode(TEXTS, normalize_embeddings=True)
    found = PackagedTeacher().encode(TEXTS)
    assert found.dtype == np.float32 and found.shape == (6, 384)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)
    assert found[0] @ found[1] > found[2] @ found[1] + 0.1


def test_a_run_is_the_same_whether_scores_were_cached_or_not(package_model: Path) -> None:
    before = torch.get_rng_state()
    PackagedTeacher().encode(TEXTS[:2])
    assert torch.equal(torch.get_rng_state(), before)


def test_long_lists_are_told_of_and_keep_their_order(package_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stpipe.pipeline.teacher.CHUNK", 4)
    told: list[tuple[str, int, int]] = []
    found = PackagedTeacher(progress=lambda *seen: told.append(seen)).encode(TEXTS)
    assert [seen[1:] for seen in told] == [(4, 6), (6, 6)]
    np.testing.assert_allclose(found[:3], found[3:], atol=1e-6)


def test_the_identity_is_that_of_the_files(tiny_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    one, two = PackagedTeacher(address=str(tiny_model)), PackagedTeacher(address=str(copy))
    assert one.identity == two.identity
    weights = next(copy.rglob("model.safetensors"))
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert PackagedTeacher(address=str(copy)).identity != one.identity


def test_a_missing_model_names_the_extra(tmp_path: Path) -> None:
    teacher = PackagedTeacher(address="package://no_such_model_package/model")
    section = DatasetSection(train="stdlib://docstrings?format=triplet-score", cache_dir=str(tmp_path))
    with pytest.raises(ConfigError, match=r"no_such_model_package.*not installed"):
        prepare(section, tokenizers=lambda role, routes: RoleTokenizer(None), teacher=teacher)
    assert list(tmp_path.rglob("*.arrow")) == []


def test_the_command_prepares_scored_data(
    stpipe: Command, package_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way on few rows, with the real teacher; the second time nothing is encoded."""
    overrides = ("dataset.train=stdlib://docstrings", "dataset.format=n-tuple-scores", "dataset.max_rows=6", "dataset.eval_rows=2")
    for turn in range(2):
        if turn:
            monkeypatch.setattr(PackagedTeacher, "encode", lambda self, texts: pytest.fail("encoded again"))
        assert stpipe("prepare", *overrides, "trainer.progress=line") == 0
        text = capsys.readouterr().err
        assert "6 rows of n-tuple-scores" in text and "2 rows of n-tuple-scores" in text


def test_labels_rank_as_the_teacher_does(package_model: Path, tmp_path: Path) -> None:
    """What arrives in batches is the cosine of the real model for the texts of the row."""
    section = DatasetSection(train="stdlib://docstrings?format=n-tuple-scores&negatives=2", max_rows=5, eval_rows=0)
    tokenizer = load_tokenizer(package_model)
    data = prepare(section, tokenizers=lambda role, routes: RoleTokenizer(tokenizer, max_length=64), teacher=PackagedTeacher())
    source = data.train["default"]
    scores = source.batch(np.arange(5)).targets.scores
    assert scores is not None and scores.shape == (5, 3)
    oracle = pytest.importorskip("sentence_transformers").SentenceTransformer(str(package_model), device="cpu")
    columns = source.rows().columns
    queries = oracle.encode(columns["anchor"][:], normalize_embeddings=True).astype(np.float64)
    for place, role in enumerate(("positive", "negative_1", "negative_2")):
        documents = oracle.encode(columns[role][:], normalize_embeddings=True).astype(np.float64)
        expected = [sum(x * y for x, y in zip(q, d, strict=True)) for q, d in zip(queries.tolist(), documents.tolist(), strict=True)]
        assert max(map(abs, expected)) > 0.1
        np.testing.assert_allclose(scores[:, place].numpy(), expected, atol=5e-6)
