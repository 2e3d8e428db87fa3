"""Whole runs of cross-encoders on tiny weights, by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import CrossEncoder as Peer

from stpipe.models.cross_encoder import CrossEncoder
from tests.pipeline.conftest import Command, word
from tests.pipeline.test_resume import SHARED, stop_after

MODEL = ("model=cross_encoder",)
SHORT = (*MODEL, "run.dir=out", "trainer.max_steps=3", "trainer.log_steps=1")
RERANK = "+evaluator.dev.name=cross_encoder_reranking"


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"dataset.train={path}"


def text(i: int, length: int = 5) -> str:
    return " ".join(word(i * 3 + k) for k in range(length))


@pytest.fixture
def lists(tmp_path: Path) -> str:
    rows = [{"query": text(i, 2), "documents": [text(i + k, 1 + k) for k in range(2 + i % 5)]} for i in range(56)]
    return write(tmp_path / "lists.jsonl", [{**r, "label": [float(k == 0) for k in range(len(r["documents"]))]} for r in rows])


@pytest.fixture
def classes(tmp_path: Path) -> str:
    rows = [{"anchor": text(i, 3), "positive": text(i + i % 3, 4), "label": i % 3} for i in range(56)]
    return write(tmp_path / "classes.jsonl", rows)


def records(name: str) -> list[float]:
    lines = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    return [r["value"] for r in lines if r["name"] == name]


def same_scores_elsewhere(pairs: list[tuple[str, str]]) -> np.ndarray:
    """Scores of the saved model, which must be those that sentence-transformers gives."""
    own = CrossEncoder("out/model", device="cpu").predict(pairs)
    peer = Peer("out/model", device="cpu").predict(pairs)
    assert np.abs(own).max() > 1e-3
    np.testing.assert_allclose(own, peer, atol=1e-6)
    return np.asarray(own)


def test_lists_are_reordered(stpipe: Command, lists: str) -> None:
    assert stpipe("train", *SHORT, lists, "dataset.format=query-documents", RERANK) == 0
    metrics = json.loads(Path("out/evaluation/dev/metrics.json").read_text())
    assert {"before", "after"} <= set(metrics["systems"])
    assert 0 < metrics["systems"]["after"]["ndcg@10"] <= 1
    plan = json.loads(Path("out/plan.json").read_text())
    assert plan["model"] == "CrossEncoder" and plan["sources"]["default"]["loss"] == "LambdaLoss"
    assert len(records("loss")) == 3
    assert same_scores_elsewhere([(text(1, 2), text(3, 6)), (text(2, 2), text(9, 30))]).shape == (2,)
    card = (Path("out/model") / "README.md").read_text()
    assert "text-ranking" in card and "CrossEncoder" in card and "rank(query, documents" in card


def test_classes(stpipe: Command, classes: str, capsys: pytest.CaptureFixture[str]) -> None:
    evaluator = "+evaluator.dev.name=cross_encoder_classification"
    assert stpipe("train", *SHORT, classes, "loss=cross_entropy", evaluator) == 2
    message = capsys.readouterr().err
    assert "model.num_labels" in message and "3 classes" in message and not Path("out").exists()
    assert stpipe("train", *SHORT, classes, "loss=cross_entropy", "model.num_labels=3", evaluator) == 0
    assert same_scores_elsewhere([(text(1), text(2)), (text(3), text(5))]).shape == (2, 3)
    assert "text-classification" in (Path("out/model") / "README.md").read_text()


def test_documented_names_mean_the_losses_of_scores(stpipe: Command) -> None:
    """The pairs of the default data: negatives come from the batch."""
    evaluator = "evaluator={}"
    assert stpipe("train", *SHORT, "dataset.format=pair", "loss=mnrl", "loss.num_negatives=3", evaluator) == 0
    plan = json.loads(Path("out/plan.json").read_text())["sources"]["default"]
    assert plan["loss"] == "RerankerMultipleNegativesRankingLoss"
    assert plan["negatives_per_anchor"] == 3
    assert plan["mean_tokens_per_row"] > 30  # four pairs a row
    config = Path("out/config.yaml").read_text()
    assert "reranker_mnrl" in config


def test_a_weight_is_derived_from_the_labels(stpipe: Command, tmp_path: Path) -> None:
    rows = [{"query": text(i % 9, 2), "document": text(i, 4), "label": float(i % 4 == 0)} for i in range(56)]
    data = write(tmp_path / "labelled.jsonl", rows)
    assert (
        stpipe("train", *SHORT, data, "dataset.format=query-document", "loss=binary_cross_entropy", "loss.pos_weight=auto", "evaluator={}")
        == 0
    )
    assert all(value > 0 for value in records("loss"))


def test_the_default_prompt_of_the_model_is_trained_with(stpipe: Command, tiny_model: Path, tmp_path: Path, classes: str) -> None:
    model = CrossEncoder(str(tiny_model), num_labels=3, prompts={"ask": "w1 w2 : "}, default_prompt_name="ask", device="cpu")
    model.save_pretrained(tmp_path / "prompted")
    options = (f"model.name_or_path={tmp_path / 'prompted'}", classes, "loss=cross_entropy", "evaluator={}")
    assert stpipe("train", *SHORT, *options) == 0
    data = json.loads(Path("out/data.json").read_text())
    assert "w1 w2 : " in json.dumps(data) or json.loads(Path("out/plan.json").read_text())["sources"]["default"]["mean_tokens_per_row"] > 12
    same_scores_elsewhere([(text(1), text(2))] * 2)


@pytest.mark.parametrize("loss", ["lambda", "mnrl"])
def test_an_interrupted_run_ends_with_the_same_weights(stpipe: Command, monkeypatch: pytest.MonkeyPatch, lists: str, loss: str) -> None:
    """Sampled negatives are drawn again as they were."""
    data = {"lambda": (lists, "dataset.format=query-documents"), "mnrl": ("dataset.format=pair",)}[loss]
    common = (
        *MODEL,
        f"loss={loss}",
        *data,
        *(o for o in SHARED if not o.lstrip("+").startswith(("loss", "evaluator", "trainer.best"))),
        "evaluator={}",
    )
    assert stpipe("train", *common, "run.dir=whole") == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        assert stpipe("train", *common, "run.dir=cut") == 130
    assert stpipe("train", *common, "run.dir=cut", "trainer.resume=auto") == 0
    whole, cut = (Path(run, "model", "model.safetensors").read_bytes() for run in ("whole", "cut"))
    assert len(whole) > 1000 and whole == cut
