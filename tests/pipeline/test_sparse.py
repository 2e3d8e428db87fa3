"""Whole runs of sparse models on tiny weights, by the command."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from stpipe.engine.callbacks import SparsityWatch
from stpipe.models import CSRModel, DenseModel, InferenceFreeSpladeModel, SparseEncoder, SpladeModel
from stpipe.pipeline.stages import watches
from tests.models.tiny_splade import save_checkpoint
from tests.pipeline.conftest import Command
from tests.pipeline.test_resume import SHARED, stop_after

EVALUATOR = "+evaluator.dev.name=information_retrieval"
SHORT = ("run.dir=out", "trainer.max_steps=3", "trainer.log_steps=1", EVALUATOR)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("mlm"))


@pytest.fixture(scope="module")
def headless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("encoder"), with_head=False)


def records(name: str) -> list[float]:
    lines = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    return [r["value"] for r in lines if r["name"] == name]


def test_splade(stpipe: Command, masked: Path) -> None:
    assert stpipe("train", "model=splade", f"model.name_or_path={masked}", "model.check=off", "loss=splade", *SHORT) == 0
    metrics = json.loads(Path("out/evaluation/dev/metrics.json").read_text())
    assert metrics["systems"]["after"]["corpus_active_dims"] > 1
    assert len(records("document_active_dims")) == 3 and all(v > 1 for v in records("query_active_dims"))
    model = SparseEncoder("out/model", device="cpu")
    assert model.encode(["w1 w2"]).layout == torch.sparse_coo
    plan = json.loads(Path("out/plan.json").read_text())
    assert plan["model"] == "SparseEncoder" and plan["sources"]["default"]["negatives_per_anchor"] == 7


def test_a_fresh_head_is_calibrated(stpipe: Command, headless: Path) -> None:
    options = ("model=splade", f"model.name_or_path={headless}", "model.active_share=0.2", "model.check=warn", "loss=splade")
    assert stpipe("train", *options, *SHORT) == 0
    start = json.loads(Path("out/plan.json").read_text())["start"]
    assert start[0].startswith("calibrated") and any("own document first" in line for line in start)


def test_start_weights_that_cannot_be_trained_are_refused(
    stpipe: Command, masked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = SparseEncoder(masked, device="cpu")
    with torch.no_grad():
        model.encoder.backbone.model.get_output_embeddings().bias += 100.0
    model.encoder.backbone.save(tmp_path / "saturated")
    assert stpipe("train", "model=splade", f"model.name_or_path={tmp_path / 'saturated'}", "loss=splade", *SHORT) == 2
    message = capsys.readouterr().err
    assert "model.name_or_path" in message and "model.calibrate=true" in message and "model.check=warn" in message
    assert not Path("out").exists()


def test_inference_free(stpipe: Command, masked: Path) -> None:
    options = ("model=splade_inference_free", f"model.name_or_path={masked}", "model.check=off", "loss=splade", "loss.query_weight=0")
    group = r"+optimizer.groups.query={match: 'SparseStaticEmbedding\.weight', lr: 0.05}"
    assert stpipe("train", *options, group, *SHORT) == 0
    start = SparseEncoder(masked, device="cpu")
    model = SparseEncoder("out/model", device="cpu")
    weight = model.encoder.input_of("query").weight
    assert model.encoder.routes == ("query", "document") and len(weight.unique()) > 20
    assert float((model.encode_document(["w1 w2"]).to_dense() - start.encode(["w1 w2"]).to_dense()).abs().max()) > 1e-4
    query = model.encode_query(["w5 w6"]).coalesce()
    assert query.values().numel() == 2 and "inverse document frequency" in json.loads(Path("out/plan.json").read_text())["start"][0]


def test_csr(stpipe: Command, tiny_model: Path) -> None:
    options = ("model=csr", "model.k=4", "model.freeze_encoder=true", "loss=csr")
    assert stpipe("train", *options, *SHORT) == 0
    model = SparseEncoder("out/model", device="cpu")
    assert model.encode(["w1 w2 w3"]).shape == (1, 128) and model.max_active_dims == 4
    weights = load_file("out/model/3_SparseAutoEncoder/model.safetensors")
    assert int(weights["stats_last_nonzero"].max()) == 3 and int(weights["stats_last_nonzero"].min()) == 0
    before = load_file(tiny_model / "model.safetensors")
    assert before and all(torch.equal(v, load_file("out/model/model.safetensors")[k]) for k, v in before.items())


@pytest.mark.parametrize("model", ["splade", "csr"])
def test_an_interrupted_run_ends_with_the_same_weights(
    stpipe: Command, masked: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """Weights that are steered to a target, and counters of dead latents, are part of a checkpoint."""
    options = {
        "splade": (f"model.name_or_path={masked}", "loss=splade", "loss.document_active_dims=20", "model.check=off"),
        "csr": (f"model.name_or_path={tiny_model}", "loss=csr"),
    }[model]
    common = (f"model={model}", *options, *SHARED)
    assert stpipe("train", *common, "run.dir=whole") == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        assert stpipe("train", *common, "run.dir=cut") == 130
    assert stpipe("train", *common, "run.dir=cut", "trainer.resume=auto") == 0
    whole, cut = (sorted(Path(run, "model").rglob("*.safetensors")) for run in ("whole", "cut"))
    assert len(whole) == len(cut) == {"splade": 1, "csr": 2}[model]
    assert [f.read_bytes() for f in whole] == [f.read_bytes() for f in cut]


def test_what_a_regulariser_decides_is_watched() -> None:
    """An autoencoder keeps k of its features from the first step on: advice about regularisers would mislead."""
    model = SimpleNamespace(encoder=SimpleNamespace(embedding_dim=101))
    warnings: list[str] = []

    def watched(component: object) -> list[str]:
        parts = SimpleNamespace(model=model, root=SimpleNamespace(model=component))
        run = SimpleNamespace(parts=parts, warn=warnings.append)
        return [type(callback).__name__ for callback in watches(run)]  # type: ignore[arg-type]

    for component in (SpladeModel("start"), InferenceFreeSpladeModel("start")):
        assert watched(component) == [SparsityWatch.__name__]
    for component in (CSRModel("start"), DenseModel("start")):
        assert watched(component) == []
