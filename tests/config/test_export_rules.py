"""What is wrong with exports is said before anything is trained."""

from __future__ import annotations

import pytest

from stpipe.config.errors import ConfigError
from stpipe.config.load import load_config

DENSE = ("model=minilm", "dataset=docstrings", "evaluator=retrieval")
RERANKER = ("model=minilm_reranker", "dataset=docstrings", "dataset.format=query-documents", "evaluator=rerank")


def problems(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides)
    return str(caught.value)


def test_presets_compose_with_their_defaults() -> None:
    values = load_config([*DENSE, "export=[onnx,onnx_int8]", "export.onnx.optimize=O2"]).values["export"]
    assert list(values) == ["onnx", "onnx_int8"]
    assert (
        values["onnx"]["form"] == "self_contained" and values["onnx"]["optimize"] == "O2" and values["onnx"]["tolerance"]["max_abs"] is None
    )
    assert values["onnx_int8"]["instructions"] == "avx512_vnni"
    assert load_config(DENSE).values["export"] == {} == load_config([*DENSE, "export=none"]).values["export"]


def test_exports_do_not_change_the_name_of_a_run() -> None:
    assert load_config(DENSE).values["run"]["name"] == load_config([*DENSE, "export=onnx"]).values["run"]["name"]


def test_kinds_of_models() -> None:
    found = problems(*RERANKER, "export=embeddings")
    assert "export.embeddings.name" in found and "is for dense models" in found and "onnx_int8" in found
    load_config([*RERANKER, "export=onnx"])


def test_names_become_folders() -> None:
    assert "cannot name an export" in problems(*DENSE, "+export.rejected.name=onnx")


def test_layout_needs_one_graph() -> None:
    found = problems(
        "model=splade_inference_free_distilbert",
        "dataset=docstrings",
        "evaluator=sparse_retrieval",
        "export=onnx",
        "export.onnx.form=st_layout",
    )
    assert "export.onnx.form" in found and "self_contained" in found


def test_evaluators() -> None:
    assert "did you mean 'dev'" in problems(*DENSE, "export=onnx", "export.onnx.evaluator=dve").lower()
    load_config([*DENSE, "export=onnx", "export.onnx.evaluator=none"])
    loaded = load_config([*DENSE[:2], "export=onnx"])
    assert any("no evaluator" in warning for warning in loaded.warnings)


def test_misspelt_keys_and_values() -> None:
    assert "optimize" in problems(*DENSE, "export=onnx", "+export.onnx.optimise=O2")
    assert "O4" in problems(*DENSE, "export=onnx", "export.onnx.optimize=O5")
    assert "max_abs" in problems(*DENSE, "export=onnx", "export.onnx.tolerance.max_abs=-1")


def test_packages_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from stpipe.config import export_rules

    there = export_rules.find_spec
    monkeypatch.setattr(export_rules, "find_spec", lambda name: None if name in ("onnxruntime", "nncf") else there(name))
    found = problems(*DENSE, "export=onnx")
    assert "export.onnx.name" in found and "onnxruntime" in found and "pip install 'stpipe[onnx]'" in found
    load_config([*DENSE, "export=openvino"])  # which does without nncf
    assert "nncf" in problems(*DENSE, "export=openvino_int8")
