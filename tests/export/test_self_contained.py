"""Self-contained ONNX exports, made, verified and put in place as a run does it; what runs them is another process with numpy,
tokenizers and onnxruntime only."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stpipe.export import OnnxExport, Source, export_all, verification_rows
from stpipe.export.base import Written
from stpipe.export.run import RejectedError
from stpipe.models import CrossEncoder, SentenceTransformer
from tests.export.small import KINDS, cross_encoder, dense, make, some_inputs, source

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Done:
    """A model that was exported: its source, the folder of its run, what verification found."""

    source: Source
    run: Path
    record: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.run / "exports" / "onnx"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """The three kinds of models, each exported once."""
    found = {}
    for kind in KINDS:
        run = tmp_path_factory.mktemp(kind)
        origin = source(run / "model", make(kind))
        records = export_all(origin, {"onnx": OnnxExport()}, run / "exports", notify=lambda line: None)
        found[kind] = Done(origin, run, records["onnx"])
    return found


def run_alone(folder: Path, code: str) -> Any:
    """What a program in the folder of an export prints as JSON. -S -E and a bare path would hide the runtime itself; modules tell."""
    program = f"import json, sys\nfrom run import Model\n{code}\nprint(json.dumps([result, sorted(sys.modules)]))"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    result, modules = json.loads(done.stdout.splitlines()[-1])
    assert not {"torch", "transformers", "stpipe", "sentence_transformers"} & set(modules)
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_verified_to_float32(exported: dict[str, Done], kind: str) -> None:
    record = exported[kind].record
    assert record["passed"] and record["problems"] == []
    assert record["drift"]["overall"]["max_abs"] <= 1e-5
    assert set(record["drift"]["batches"]) == {"1", "32"}
    assert record["drift"]["lengths"][0] == 1 and record["drift"]["lengths"][1] > 62  # from one token to beyond the limit
    assert record["metric"]["count"] > 0 and record["metric"]["model"] == pytest.approx(record["metric"]["export"], abs=1e-6)
    assert record["metric"]["low"] is not None
    assert all(record["latency_ms"][n][side] > 0 for n in ("1", "32") for side in ("torch", "export"))
    assert record["size"]["export"] > 10_000
    assert record["runs_with"].keys() == {"onnxruntime", "tokenizers", "numpy"}
    if kind == "dense":
        assert record["drift"]["prompts"] == ["", "query : "]


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_alone_is_enough_for_the_same_numbers(exported: dict[str, Done], kind: str) -> None:
    done, inputs = exported[kind], some_inputs(kind)
    call = "predict" if kind == "cross_encoder" else "encode"
    found = np.array(run_alone(done.folder, f"result = Model().{call}({json.dumps(inputs)}).tolist()"))
    model: Any = done.source.model
    wanted = (
        model.predict(inputs)
        if kind == "cross_encoder"
        else np.asarray(
            model.encode(inputs, **({"convert_to_tensor": False} if kind == "dense" else {})).to_dense()
            if kind == "sparse"
            else model.encode(inputs)
        )
    )
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_folder_alone_gives_what_sentence_transformers_gives(exported: dict[str, Done]) -> None:
    from sentence_transformers import SentenceTransformer as Peer

    done, texts = exported["dense"], some_inputs("dense")
    found = np.array(run_alone(done.folder, f"result = Model().encode_query({json.dumps(texts)}).tolist()"))
    wanted = Peer(str(done.source.directory), device="cpu").encode_query(texts)
    assert np.abs(wanted - Peer(str(done.source.directory), device="cpu").encode(texts)).max() > 1e-2  # the prompt matters
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_command_beside_the_graph(exported: dict[str, Done]) -> None:
    done = subprocess.run(
        [sys.executable, "run.py", "w1 w2", "w1 w2", "w80 w3 w4"], cwd=exported["dense"].folder, capture_output=True, text=True, check=True
    )
    scores = [float(line.split()[0]) for line in done.stdout.splitlines()]
    model = exported["dense"].source.model
    assert isinstance(model, SentenceTransformer)
    wanted = model.similarity(model.encode_query(["w1 w2"]), model.encode_document(["w1 w2", "w80 w3 w4"]))[0].tolist()
    assert scores == pytest.approx(wanted, abs=1e-5)


def test_no_texts_at_all(exported: dict[str, Done]) -> None:
    assert run_alone(exported["dense"].folder, "result = list(Model().encode([]).shape)") == [0, 32]
    assert run_alone(exported["cross_encoder"].folder, "result = list(Model().predict([]).shape)") == [0]


def test_rows_for_card_and_report(exported: dict[str, Done]) -> None:
    rows = verification_rows(exported["sparse"].run)
    assert [row["name"] for row in rows] == ["onnx"]
    assert rows[0]["passed"] and rows[0]["path"] == "exports/onnx" and rows[0]["metric"] == "dev_dot_ndcg@10"
    assert rows[0]["latency_32_ms"] > 0 and rows[0]["size_mb"] > 0
    assert all(rows[0][f"speed_{n}"] == rows[0][f"torch_latency_{n}_ms"] / rows[0][f"latency_{n}_ms"] for n in (1, 32))


def test_made_once_for_the_same_weights(exported: dict[str, Done]) -> None:
    done = exported["dense"]
    before = (done.folder / "verification.json").stat().st_mtime_ns
    lines: list[str] = []
    again = export_all(
        Source.of(done.source.directory, evaluators=done.source.evaluators, rows=done.source.rows),
        {"onnx": OnnxExport()},
        done.run / "exports",
        notify=lines.append,
    )
    assert (done.folder / "verification.json").stat().st_mtime_ns == before and again["onnx"] == done.record
    assert "passed" in lines[0]


# ---- Broken exports are rejected ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OfAnotherModel(OnnxExport):
    """An export whose graph is that of a model that was changed."""

    def write(self, source: Source, folder: Path) -> Written:
        return super().write(replace(source, model=broken(source.model)), folder)


class Twice(nn.Module):
    """An activation on top of itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(torch.sigmoid(x))


def broken(model: Any) -> Any:
    """Pooling removed (the first token in its place), or the activation applied twice."""
    if isinstance(model, CrossEncoder):
        return CrossEncoder(modules=list(model), device="cpu", activation_fn=Twice())
    model = SentenceTransformer(modules=list(dense(mode="cls")), device="cpu", prompts=model.prompts)
    return model


def rejected(origin: Source, run: Path, export: OnnxExport) -> str:
    with pytest.raises(RejectedError) as caught:
        export_all(origin, {"bad": export}, run / "exports", notify=lambda line: None)
    assert caught.value.exit_code == 5
    assert not (run / "exports" / "bad").exists()
    rows = verification_rows(run)
    assert [(row["name"], row["passed"], row["path"]) for row in rows] == [("bad", False, "exports/rejected/bad")]
    assert rows[0]["problems"]
    return str(caught.value)


def test_pooling_removed(tmp_path: Path) -> None:
    message = rejected(source(tmp_path / "model", dense()), tmp_path, OfAnotherModel())
    assert "largest difference" in message and "above tolerance.max_abs=1e-05" in message


def test_activation_applied_twice(tmp_path: Path) -> None:
    assert "above tolerance.max_abs" in rejected(source(tmp_path / "model", cross_encoder()), tmp_path, OfAnotherModel())


def test_weights_swapped(exported: dict[str, Done], tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class OtherWeights(OnnxExport):
        """The folder of another model's export: nothing in it tells."""

        def write(self, source: Source, folder: Path) -> Written:
            shutil.copytree(exported["dense"].folder, folder, dirs_exist_ok=True)
            (folder / "verification.json").unlink()
            return Written(("run.py", "--serve", "1"), ("model.onnx",))

    assert "above tolerance.max_abs" in rejected(source(tmp_path / "model", dense(seed=3)), tmp_path, OtherWeights())


def test_what_cannot_be_run_alone_is_no_export(exported: dict[str, Done], tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Incomplete(OnnxExport):
        """Its tokenizer is missing."""

        def write(self, source: Source, folder: Path) -> Written:
            shutil.copytree(exported["dense"].folder, folder, dirs_exist_ok=True)
            (folder / "tokenizer.json").unlink()
            return Written(("run.py", "--serve", "1"), ("model.onnx",))

    with pytest.raises(RejectedError, match="fails when it is run on its own"):
        export_all(exported["dense"].source, {"bad": Incomplete()}, tmp_path / "exports", notify=lambda line: None)
    assert not list((tmp_path / "exports").glob("*"))
