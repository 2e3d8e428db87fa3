"""Exports in the card: real ones, verified, each used as the card says, with its own runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stpipe.cards.exports import Usage, export_rows, export_snippets, export_table
from stpipe.export import EmbeddingsExport, Export, OnnxExport, OpenVinoExport, SafetensorsExport, Source, ToleranceSection, export_all
from stpipe.export.run import RejectedError
from tests.cards.reading import card
from tests.export import small

pytest.importorskip("onnxruntime", reason="extra onnx")
pytest.importorskip("openvino", reason="extra openvino")


def run_with_exports(run_dir: Path, kind: str, exports: dict[str, Export]) -> str:
    """The card of a run whose model is a small one of a kind, with these exports of it."""
    model = small.make(kind)
    source = small.source(run_dir / "model", model)
    training = {"default": small.rows(kind)["default"]}
    source = Source.of(run_dir / "model", evaluators=small.evaluators(kind), rows=small.rows(kind), training=training)
    export_all(source, exports, run_dir / "exports", notify=lambda line: None)
    return card(run_dir)


def snippet(text: str, name: str) -> str:
    start = text.index(f"Export {name} (needs ")
    return text[text.index("```python\n", start) + 10 : text.index("\n```", start + 60)]


def run_snippet(run_dir: Path, code: str) -> str:
    """What it prints in a fresh interpreter, in the folder of the card."""
    done = subprocess.run([sys.executable, "-c", code], cwd=run_dir / "model", capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", small.KINDS)
def test_every_export_is_used_as_the_card_says(run_dir: Path, sparse_run_dir: Path, kind: str) -> None:
    folder = sparse_run_dir if kind == "sparse" else run_dir
    bits = EmbeddingsExport(form="int8", probes=8, tolerance=ToleranceSection(metric_drop=1.0, mean_cosine=0.5))
    of_kind: dict[str, dict[str, Export]] = {
        "dense": {
            "whole": OnnxExport(probes=8),
            "bits": bits,
            "float": SafetensorsExport(dtype="float32", probes=8),
            "openvino": OpenVinoExport(probes=8),
        },
        "sparse": {"whole": OnnxExport(probes=8), "openvino_layout": OpenVinoExport(form="st_layout", probes=8)},
        "cross_encoder": {
            "layout": OnnxExport(form="st_layout", probes=8),
            "openvino_layout": OpenVinoExport(form="st_layout", probes=8),
            "openvino": OpenVinoExport(probes=8),
        },
    }
    exports = of_kind[kind]
    text = run_with_exports(folder, kind, exports)
    shapes = {"dense": "(1, 32) (2, 32)", "sparse": "(1, 101) (2, 101)", "cross_encoder": "(2,)"}
    for name in exports:
        found = run_snippet(folder, snippet(text, name)).replace("torch.Size([", "(").replace("])", ")")
        assert found == ("(3, 32) int8" if name == "bits" else shapes[kind]), name
        assert f"| {name} (" in text
        assert (f"Export {name} with sentence-transformers (needs " in text) == ("layout" in name)
    assert ("onnxruntime, tokenizers and numpy" in text) == ("whole" in exports) and "| rejected" not in text


def test_layouts_are_used_with_sentence_transformers_too(tmp_path: Path) -> None:
    """The same calls; scripts/check_openvino_layout.py runs them where its backends are installed."""
    (tmp_path / "exports" / "onnx").mkdir(parents=True)
    (tmp_path / "exports" / "onnx" / "verification.json").write_text(json.dumps({"facts": {"file_name": "openvino/m.xml"}}))
    usage = Usage("cross_encoder", ["a", "b", "c"], retrieval=True)
    ours, theirs = export_snippets(tmp_path, [row(form="st_layout", runtime="openvino")], usage)
    assert (theirs.name, theirs.needs) == ("onnx with sentence-transformers", "sentence-transformers[openvino]")
    assert theirs.code.splitlines()[0] == "from sentence_transformers import CrossEncoder"
    assert theirs.code.splitlines()[1:] == ours.code.splitlines()[1:] and 'backend="openvino"' in ours.code and "m.xml" in ours.code
    assert len(export_snippets(tmp_path, [row(), row(passed=False)], usage)) == 1


def row(**changed: Any) -> dict[str, Any]:
    found = {
        "name": "onnx",
        "runtime": "onnx",
        "form": "self_contained",
        "precision": "int8",
        "passed": True,
        "problems": [],
        "path": "exports/onnx",
        "max_abs": 0.0123,
        "mean_cosine": 0.98765,
        "spearman": None,
        "texts": 128,
        "min_length": 1,
        "max_length": 62,
        "metric": "dev_ndcg",
        "metric_model": 0.5,
        "metric_export": 0.49,
        "metric_low": -0.02,
        "metric_high": 0.004,
        "latency_1_ms": 1.25,
        "torch_latency_1_ms": 3.5,
        "latency_32_ms": None,
        "torch_latency_32_ms": None,
        "speed_1": 2.8,
        "speed_32": None,
        "size_mb": 23.04,
        "model_size_mb": 90.9,
    }
    return {**found, **changed}


def test_the_table() -> None:
    (good,) = export_table([row()])
    assert list(good.values()) == [
        "onnx (onnx, self_contained, int8)",
        "yes",
        "1.2e-02",
        "0.9877",
        "dev_ndcg: 0.5000, 0.4900 (\u22120.0200 to +0.0040)",
        "1.2 (3.5)",
        "\u2013",
        "2.8x, \u2013",
        "23.0 (90.9)",
        "128 texts of 1 to 62 tokens",
    ]
    (bad,) = export_table([row(passed=False, problems=["too far", "too slow"], metric=None, mean_cosine=None, spearman=0.5)])
    assert bad["Verified"] == "rejected: too far; too slow" and bad["Cosine or rank correlation"] == "0.5000"
    assert bad["Metric (model, export)"] == "\u2013"


@pytest.mark.slow
def test_a_rejected_export_is_told_and_not_offered(run_dir: Path) -> None:
    (run_dir / "model").mkdir()
    with pytest.raises(RejectedError):
        run_with_exports(
            run_dir, "dense", {"half": SafetensorsExport(dtype="bfloat16", probes=8, tolerance=ToleranceSection(max_abs=1e-9))}
        )
    assert [r["passed"] for r in export_rows(run_dir)] == [False]
    text = card(run_dir)
    assert "| half (torch, st_layout, bf16) | rejected: largest difference" in text
    assert "Export half (needs" not in text


def test_without_exports_and_with_damaged_ones(run_dir: Path) -> None:
    assert export_rows(run_dir) == []
    (run_dir / "exports" / "x").mkdir(parents=True)
    (run_dir / "exports" / "x" / "verification.json").write_text(json.dumps({"passed": True}), encoding="utf-8")
    (run_dir / "model").mkdir()
    assert export_rows(run_dir) == [] and "### Checks" in card(run_dir)
