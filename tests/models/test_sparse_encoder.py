"""The documented interface of the inference class of sparse models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentence_transformers as st
import torch

import stpipe
from stpipe.config.errors import ConfigError
from stpipe.models import SentenceTransformer, SparseEncoder, inference
from stpipe.models.load import load_model
from stpipe.models.modules import Pooling, Router, SparseAutoEncoder, SparseStaticEmbedding
from stpipe.models.sparse_encoder import vectors_of
from tests.models.tiny import VOCAB, make_backbone, make_texts, make_tokenizer
from tests.models.tiny_splade import make_splade, save_checkpoint, splade_model

TEXTS = make_texts(9)


@pytest.fixture(scope="module")
def model() -> SparseEncoder:
    return splade_model(prompts={"query": "query : ", "document": "document : "})


def test_containers(model: SparseEncoder) -> None:
    rows = model.encode(TEXTS)
    assert rows.layout == torch.sparse_coo and rows.is_coalesced() and rows.shape == (9, len(VOCAB)) and rows.dtype == torch.float32
    dense = model.encode(TEXTS, convert_to_sparse_tensor=False)
    assert 0 < int((dense > 0).sum()) < dense.numel()
    torch.testing.assert_close(rows.to_dense(), dense, rtol=0, atol=0)
    listed = model.encode(TEXTS, convert_to_tensor=False)
    assert isinstance(listed, list) and listed[3].is_sparse
    torch.testing.assert_close(torch.stack([v.to_dense() for v in listed]), dense)
    single = model.encode(TEXTS[2])
    assert single.shape == (len(VOCAB),)
    torch.testing.assert_close(single.to_dense(), dense[2], rtol=1e-5, atol=1e-6)
    assert all(v.is_coalesced() and v.shape == (len(VOCAB),) and float(v.values().min()) > 0 for v in listed)
    assert model.encode([]).shape == (0, len(VOCAB)) and model.encode([], convert_to_tensor=False) == []
    dense_list = model.encode(TEXTS, convert_to_tensor=False, convert_to_sparse_tensor=False)
    assert isinstance(dense_list, list) and torch.equal(torch.stack(dense_list), dense)
    assert stpipe.SparseEncoder is SparseEncoder


def test_order_is_restored(model: SparseEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    singles = torch.stack([model.encode(t).to_dense() for t in TEXTS])
    monkeypatch.setattr(inference, "CHUNK", 4)
    monkeypatch.setattr(inference, "CPU_TOKENS", 60)
    torch.testing.assert_close(model.encode(TEXTS).to_dense(), singles, rtol=1e-5, atol=1e-5)


def test_a_forward_holds_few_texts_of_a_large_vocabulary(model: SparseEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of short texts fit into the tokens of a forward, and each is as wide as the vocabulary."""
    seen: list[int] = []
    features = type(model.encoder).features
    monkeypatch.setattr(type(model.encoder), "features", lambda self, tokens, **o: seen.append(len(tokens)) or features(self, tokens, **o))
    expected = model.encode(TEXTS)
    assert seen == [len(TEXTS)]
    seen.clear()
    monkeypatch.setattr(inference, "MAX_CELLS", 2 * len(VOCAB) + 1)
    torch.testing.assert_close(model.encode(TEXTS).to_dense(), expected.to_dense(), rtol=1e-5, atol=1e-5)
    assert sum(seen) == len(TEXTS) and max(seen) == 2


def test_prompts(model: SparseEncoder) -> None:
    for found, text in ((model.encode_query("w1 w2"), "query : w1 w2"), (model.encode_document("w1 w2"), "document : w1 w2")):
        torch.testing.assert_close(found.to_dense(), model.encode(text).to_dense(), rtol=1e-5, atol=1e-6)
    assert float((model.encode_query("w1 w2").to_dense() - model.encode("w1 w2").to_dense()).abs().max()) > 1e-3


def test_pruning_and_sparsity(model: SparseEncoder) -> None:
    full = model.encode(TEXTS, convert_to_sparse_tensor=False)
    pruned = model.encode(TEXTS, max_active_dims=5)
    dense = pruned.to_dense()
    assert (dense > 0).sum(1).tolist() == [5] * 9
    torch.testing.assert_close(dense.topk(5).values, full.topk(5).values, rtol=0, atol=0)
    assert model.sparsity(pruned) == {"active_dims": 5.0, "sparsity_ratio": pytest.approx(1 - 5 / len(VOCAB))}
    assert model.sparsity(dense) == model.sparsity(pruned) == model.sparsity(list(dense))
    assert model.sparsity(dense[0])["active_dims"] == 5.0
    limited = SparseEncoder(modules=list(model), device="cpu", max_active_dims=3)
    assert limited.sparsity(limited.encode(TEXTS))["active_dims"] == 3.0
    with pytest.raises(ConfigError, match="at least 1"):
        SparseEncoder(modules=list(model), device="cpu", max_active_dims=0)
    for bad in (0, -1):
        with pytest.raises(ConfigError, match=f"max_active_dims must be at least 1, got {bad}; None keeps all"):
            model.encode_query(TEXTS, max_active_dims=bad)


def test_decode_and_intersection(model: SparseEncoder) -> None:
    rows = model.encode(TEXTS)
    words = model.decode(rows, top_k=4)
    for text, found in zip(rows.to_dense(), words, strict=True):
        assert [model.tokenizer.convert_tokens_to_ids(w) for w, _ in found] == text.topk(4).indices.tolist()
        assert [weight for _, weight in found] == sorted((weight for _, weight in found), reverse=True)
    assert model.decode(rows[1]) == model.decode(rows)[1] and len(model.decode(rows[1])) == int((rows[1].to_dense() > 0).sum())
    both = model.intersection(rows[0], rows)
    torch.testing.assert_close(both.to_dense(), rows[0].to_dense() * rows.to_dense())
    torch.testing.assert_close(model.intersection(rows[0], rows[1]).to_dense(), both.to_dense()[1])
    with pytest.raises(ConfigError, match="one vector"):
        model.intersection(rows, rows)


def test_similarity_is_the_dot_product(model: SparseEncoder) -> None:
    rows = model.encode(TEXTS)
    dense = rows.to_dense().double()
    assert model.similarity_fn_name == "dot"
    torch.testing.assert_close(model.similarity(rows, rows).double(), dense @ dense.T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.similarity_pairwise(rows, rows).double(), (dense * dense).sum(1), rtol=1e-5, atol=1e-5)


def test_what_a_checkpoint_becomes(tmp_path: Path) -> None:
    splade = SparseEncoder(save_checkpoint(tmp_path / "mlm"), device="cpu")
    assert [type(m).__name__ for m in splade] == ["MaskedLanguageModel", "SpladePooling"]
    bare = SparseEncoder(save_checkpoint(tmp_path / "encoder", with_head=False), device="cpu")
    assert [type(m).__name__ for m in bare] == ["Transformer", "Pooling", "SparseAutoEncoder"]
    for architectures, first in ((["BertForPreTraining"], "Transformer"), (["BertModel", "BertForMaskedLM"], "MaskedLanguageModel")):
        file = tmp_path / "mlm" / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "architectures": architectures}))
        found = SparseEncoder(tmp_path / "mlm", device="cpu")
        assert type(found[0]).__name__ == first
        theirs = st.SparseEncoder(str(tmp_path / "mlm"), device="cpu")
        assert [type(m).__name__ for m in theirs][1:] == [type(m).__name__ for m in found][1:]
    dense = SentenceTransformer(modules=[make_backbone("bert"), Pooling(32)], device="cpu")
    dense.save_pretrained(tmp_path / "dense")
    converted = SparseEncoder(tmp_path / "dense", device="cpu")
    latent = converted[2]
    assert isinstance(latent, SparseAutoEncoder) and (latent.hidden_dim, latent.k, latent.k_aux) == (128, 8, 16)
    assert converted.max_active_dims == 8 and converted.encode(TEXTS).shape == (9, 128)


def test_saved_and_loaded(tmp_path: Path, model: SparseEncoder) -> None:
    limited = SparseEncoder(modules=list(model), device="cpu", max_active_dims=7, prompts=model.prompts)
    limited.save_pretrained(tmp_path)
    again = load_model(tmp_path, device="cpu")
    assert isinstance(again, SparseEncoder) and again.max_active_dims == 7 and again.prompts["query"] == "query : "
    torch.testing.assert_close(again.encode_query(TEXTS).to_dense(), limited.encode_query(TEXTS).to_dense(), rtol=0, atol=0)


def test_routes_take_queries_and_documents_apart() -> None:
    document = list(make_splade("bert").stack)
    static = SparseStaticEmbedding(make_tokenizer(), weight=torch.linspace(0, 1, len(VOCAB)))
    model = SparseEncoder(modules=[Router.for_query_document([static], document)], device="cpu")  # type: ignore[list-item]
    query = model.encode_query("w3 w3 w7").to_dense()
    expected = torch.zeros(len(VOCAB))
    for word in ("w3", "w7"):
        expected[VOCAB[word]] = VOCAB[word] / (len(VOCAB) - 1)
    torch.testing.assert_close(query, expected)
    plain = SparseEncoder(modules=document, device="cpu")  # type: ignore[arg-type]
    for found in (model.encode_document(TEXTS), model.encode(TEXTS)):
        torch.testing.assert_close(found.to_dense(), plain.encode(TEXTS).to_dense())
    assert model.encode_query(TEXTS).shape == (9, len(VOCAB))


def test_rows_without_entries_are_vectors_too() -> None:
    dense = torch.tensor([[0.0, 0, 0], [1.0, 0, 2], [0, 0, 0], [0, 3.0, 0]])
    found = vectors_of(dense.to_sparse_coo())
    assert [v.values().numel() for v in found] == [0, 2, 0, 1]
    torch.testing.assert_close(torch.stack([v.to_dense() for v in found]), dense, rtol=0, atol=0)
