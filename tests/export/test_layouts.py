"""Exports in the layout of the format, OpenVINO, and what is stored in lower precision: the same numbers within their tolerances."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stpipe
from stpipe.config.errors import ConfigError
from stpipe.export import OnnxExport, OnnxInt8Export, OpenVinoExport, OpenVinoInt8Export, Source, export_all
from stpipe.export.optimize import optimize
from stpipe.export.quantize_onnx import INSTRUCTIONS, quantize_dynamic
from stpipe.export.standalone import Model
from stpipe.models.load import load_model
from tests.export.small import KINDS, make, some_inputs, source

pytestmark = pytest.mark.slow
Written = Callable[[str, Any], Path]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    return {kind: source(tmp_path_factory.mktemp(kind) / "model", make(kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def written(sources: dict[str, Source], tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The folder of an export of one kind of model, written once, not verified."""
    made: dict[Any, Path] = {}

    def write(kind: str, export: Any) -> Path:
        if (kind, export) not in made:
            folder = tmp_path_factory.mktemp("export")
            export.write(sources[kind], folder)
            made[(kind, export)] = folder
        return made[(kind, export)]

    return write


def outputs(model: Any, kind: str) -> np.ndarray[Any, Any]:
    """Embeddings or scores of a few inputs, by any class with the documented methods."""
    inputs = some_inputs(kind)
    if kind == "cross_encoder":
        return np.asarray(model.predict(inputs))
    found = model.encode(inputs, convert_to_tensor=True)
    return (found.to_dense() if found.layout != torch.strided else found).numpy()


# ---- The layout of the format, by backend= --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_onnx_in_the_layout_of_the_format(kind: str, sources: dict[str, Source], written: Written) -> None:
    folder = written(kind, OnnxExport(form="st_layout"))
    assert (folder / "onnx" / "model.onnx").is_file() and (folder / "modules.json").is_file()
    assert not list(folder.glob("*.safetensors")), "the graph stands in the place of the weights"
    model = load_model(folder, device="cpu", backend="onnx")
    assert type(model) is type(sources[kind].model) and model.max_seq_length == 62
    wanted = outputs(sources[kind].model, kind)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(outputs(model, kind), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_openvino_in_the_layout_of_the_format(kind: str, sources: dict[str, Source], written: Written) -> None:
    folder = written(kind, OpenVinoExport(form="st_layout"))
    assert sorted(path.name for path in (folder / "openvino").iterdir()) == ["openvino_model.bin", "openvino_model.xml"]
    model = load_model(folder, device="cpu", backend="openvino")
    np.testing.assert_allclose(outputs(model, kind), outputs(sources[kind].model, kind), atol=1e-5)


def test_verified_by_a_process_that_loads_the_layout(sources: dict[str, Source], tmp_path: Path) -> None:
    export = OnnxExport(form="st_layout", probes=16)
    record = export_all(sources["dense"], {"st": export}, tmp_path / "exports", notify=lambda line: None)["st"]
    assert record["passed"] and record["drift"]["overall"]["max_abs"] <= 1e-5
    assert {"onnxruntime", "torch", "stpipe"} <= record["runs_with"].keys() and "sentence_transformers" not in record["modules"]


def test_the_layout_with_the_modules_of_sentence_transformers(sources: dict[str, Source], written: Written) -> None:
    """What its onnx backend would do, were it installable: a graph of these names, then its own pooling and normalisation."""
    import onnxruntime
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import AutoTokenizer

    folder, texts = written("dense", OnnxExport(form="st_layout")), some_inputs("dense")
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_outputs()] == ["last_hidden_state"]
    names = [item.name for item in session.get_inputs()]
    assert names == ["input_ids", "attention_mask"]  # its tokenizer numbers no segments
    encoded = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="pt")
    (vectors,) = session.run(None, {name: encoded[name].numpy() for name in names})
    features = {"token_embeddings": torch.from_numpy(vectors), "attention_mask": encoded["attention_mask"]}
    for module in (Pooling.load(str(folder / "1_Pooling")), Normalize.load(str(folder / "2_Normalize"))):
        features = module(features)
    np.testing.assert_allclose(features["sentence_embedding"].numpy(), outputs(sources["dense"].model, "dense"), atol=1e-5)


# ---- OpenVINO and lower precision, self-contained -------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_openvino_alone(kind: str, sources: dict[str, Source], tmp_path: Path) -> None:
    record = export_all(sources[kind], {"ov": OpenVinoExport()}, tmp_path / "exports", notify=lambda line: None)["ov"]
    assert record["passed"] and record["drift"]["overall"]["max_abs"] <= 1e-5
    assert record["runs_with"].keys() == {"openvino", "tokenizers", "numpy"}


def test_openvino_in_half_the_size(sources: dict[str, Source], tmp_path: Path) -> None:
    record = export_all(sources["dense"], {"ov": OpenVinoExport(half=True)}, tmp_path / "exports", notify=lambda line: None)["ov"]
    assert record["passed"] and record["tolerance"]["max_abs"] == 2e-3
    assert 1e-6 < record["drift"]["overall"]["max_abs"] <= 2e-3


def test_openvino_int8(sources: dict[str, Source], tmp_path: Path) -> None:
    loose = replace(OpenVinoInt8Export().tolerance, metric_drop=1.0, spearman=0.9)  # random weights rank nothing well
    export = OpenVinoInt8Export(calibration=24, tolerance=loose)
    record = export_all(sources["cross_encoder"], {"ov": export}, tmp_path / "exports", notify=lambda line: None)["ov"]
    assert record["passed"] and record["drift"]["overall"]["max_abs"] > 1e-4, "nothing was quantised"
    assert record["drift"]["overall"]["spearman"] > 0.9


@pytest.mark.parametrize("level", ["O1", "O2", "O3", "O4"])
def test_optimised_onnx(level: Any, sources: dict[str, Source], written: Written, tmp_path: Path) -> None:
    folder = shutil.copytree(written("dense", OnnxExport()), tmp_path / level)
    plain = (folder / "model.onnx").rename(folder / "plain.onnx")
    model: Any = sources["dense"].model
    optimize(plain, folder / "model.onnx", level=level, config=model.encoder.backbone.model.config)
    operators = count_operators(folder / "model.onnx")
    assert operators != count_operators(plain)
    assert ("SkipLayerNormalization" in operators or "EmbedLayerNormalization" in operators) == (level != "O1")
    assert ("FastGelu" in operators) == (level in ("O3", "O4"))
    difference = np.abs(Model(folder).encode(some_inputs("dense")) - outputs(model, "dense")).max()
    assert difference <= (2e-3 if level in ("O3", "O4") else 1e-5)
    assert (difference > 1e-5) == (level in ("O3", "O4"))


def count_operators(file: Path) -> dict[str, int]:
    import onnx

    found: dict[str, int] = {}
    for node in onnx.load(file).graph.node:
        found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


@pytest.mark.parametrize("instructions", list(INSTRUCTIONS))
def test_weights_in_eight_bits(instructions: str, sources: dict[str, Source], written: Written, tmp_path: Path) -> None:
    folder = shutil.copytree(written("dense", OnnxExport()), tmp_path / "int8")
    plain = (folder / "model.onnx").rename(folder / "plain.onnx")
    quantize_dynamic(plain, folder / "model.onnx", instructions=instructions)
    assert any(name in count_operators(folder / "model.onnx") for name in ("MatMulInteger", "DynamicQuantizeMatMul"))
    found, wanted = Model(folder).encode(some_inputs("dense")), outputs(sources["dense"].model, "dense")
    assert np.abs(found - wanted).max() > 1e-4
    assert (found * wanted).sum(1).mean() > 0.95


# ---- The documented functions ---------------------------------------------------------------------------------------


def test_documented_functions_for_onnx(sources: dict[str, Source], written: Written, tmp_path: Path) -> None:
    folder = shutil.copytree(written("dense", OnnxExport(form="st_layout")), tmp_path / "model")
    model = stpipe.SentenceTransformer(str(folder), backend="onnx", device="cpu")
    stpipe.export_optimized_onnx_model(model, "O2", str(folder))
    stpipe.export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(folder))
    stpipe.export_dynamic_quantized_onnx_model(model, "avx2", str(folder), file_suffix="small")
    assert sorted(p.name for p in (folder / "onnx").iterdir()) == [
        "model.onnx",
        "model_O2.onnx",
        "model_qint8_avx512_vnni.onnx",
        "model_small.onnx",
    ]
    wanted = outputs(sources["dense"].model, "dense")
    for name, tolerance in (("model_O2.onnx", 1e-5), ("onnx/model_qint8_avx512_vnni.onnx", 0.2)):
        loaded = stpipe.SentenceTransformer(str(folder), backend="onnx", device="cpu", model_kwargs={"file_name": name})
        np.testing.assert_allclose(outputs(loaded, "dense"), wanted, atol=tolerance)
    with pytest.raises(ConfigError, match="backend='openvino'"):
        stpipe.export_static_quantized_openvino_model(model, None, str(folder))
    with pytest.raises(ConfigError, match="O2"):
        stpipe.export_optimized_onnx_model(model, "02", str(folder))


def test_documented_function_for_openvino(sources: dict[str, Source], written: Written, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    lines = "".join(f'{{"sentence": "{text}"}}\n' for text in sources["dense"].texts)
    (tmp_path / "texts" / "train.jsonl").write_text(lines)
    folder = shutil.copytree(written("dense", OpenVinoExport(form="st_layout")), tmp_path / "model")
    model = stpipe.SentenceTransformer(str(folder), backend="openvino", device="cpu")
    stpipe.export_static_quantized_openvino_model(
        model,
        {"num_samples": 20},
        str(folder),
        dataset_name=str(tmp_path / "texts"),
        dataset_config_name="default",
        dataset_split="train",
        column_name="sentence",
    )
    loaded = stpipe.SentenceTransformer(
        str(folder), backend="openvino", device="cpu", model_kwargs={"file_name": "openvino_model_qint8_quantized.xml"}
    )
    found, wanted = outputs(loaded, "dense"), outputs(sources["dense"].model, "dense")
    assert np.abs(found - wanted).max() > 1e-4 and (found * wanted).sum(1).mean() > 0.95


# ---- Routes ---------------------------------------------------------------------------------------------------------


def test_a_model_with_routes_has_a_graph_for_each(tmp_path: Path) -> None:
    from stpipe.models import SparseEncoder
    from stpipe.models.modules import Router, SparseStaticEmbedding
    from tests.models.tiny import make_tokenizer
    from tests.models.tiny_splade import make_splade

    tokenizer = make_tokenizer()
    lookup = SparseStaticEmbedding(tokenizer, weight=torch.rand(len(tokenizer)) + 0.1)
    model = SparseEncoder(modules=[Router.for_query_document([lookup], list(make_splade().stack))], device="cpu")  # type: ignore[arg-type]
    origin = source(tmp_path / "model", model)
    record = export_all(origin, {"onnx": OnnxExport(probes=16)}, tmp_path / "exports", notify=lambda line: None)["onnx"]
    assert record["passed"] and record["drift"]["routes"] == ["query", "document"]
    assert {"query_model.onnx", "document_model.onnx"} <= {path.name for path in (tmp_path / "exports" / "onnx").iterdir()}
    with pytest.raises(Exception, match="use self_contained"):
        export_all(origin, {"st": OnnxExport(form="st_layout")}, tmp_path / "exports", notify=lambda line: None)


def test_int8_names_of_the_format() -> None:
    assert [OnnxInt8Export(instructions=name).suffix for name in INSTRUCTIONS] == [
        "qint8_arm64",
        "quint8_avx2",
        "qint8_avx512",
        "qint8_avx512_vnni",
    ]
    assert OnnxExport(optimize="O3").suffix == "O3" and OpenVinoInt8Export().suffix == "qint8_quantized"
