"""Static embeddings: value, gradient, the folder on disk in the form of three writers, distillation, the component."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer as Peer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding as PeerEmbedding

from stpipe.config.errors import ConfigError
from stpipe.core.tokenize import tokenize
from stpipe.core.tokens import Tokens
from stpipe.models.modules import Normalize, StaticEmbedding
from stpipe.models.sentence_transformer import SentenceTransformer
from stpipe.models.static import StaticModel
from stpipe.models.static_distillation import distil_static, token_embeddings
from tests.models.tiny import VOCAB, make_encoder, make_texts, make_tokenizer

WORDS, DIM = len(VOCAB), 8
TEXTS = ["w1 w2 w1", "w2 unheard-of", "", *make_texts(5, seed=1)]


def make_module(**options: Any) -> StaticEmbedding:
    return StaticEmbedding(make_tokenizer(), weight=torch.randn(WORDS, DIM, generator=torch.Generator().manual_seed(0)), **options)


def make_model(*modules: Any, **options: Any) -> SentenceTransformer:
    return SentenceTransformer(modules=[make_module(**options), *modules], device="cpu")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    SentenceTransformer(modules=list(make_encoder("bert").stack), device="cpu").save_pretrained(folder)
    return folder


def test_value_and_gradient_of_a_naive_loop() -> None:
    ids = tokenize(make_tokenizer(), TEXTS, special_tokens=False)
    module = make_module().double()
    tokens = Tokens.from_lists(ids)
    found = module({"input_ids": tokens.ids, "lengths": tokens.lengths})["sentence_embedding"]
    weight = module.embedding.weight.detach().clone().requires_grad_()
    rows = [torch.stack([weight[i] for i in text]).sum(0) / len(text) if text else weight.new_zeros(DIM) for text in ids]
    expected = torch.stack(rows)
    torch.testing.assert_close(found, expected)
    assert float(found.detach().abs().max()) > 0.1 and not found[2].any()
    (found.square().sum() / 2).backward()
    (expected.square().sum() / 2).backward()
    assert weight.grad is not None and float(weight.grad.abs().max()) > 0.1
    torch.testing.assert_close(module.embedding.weight.grad, weight.grad)


@pytest.mark.parametrize("max_length", [None, 3])
def test_both_libraries_read_it_alike(tmp_path: Path, max_length: int | None) -> None:
    texts = [text for text in TEXTS if text]
    own = make_model(Normalize(), max_length=max_length)
    expected = own.encode(texts)
    assert np.abs(expected).max() > 0.1
    own.save_pretrained(tmp_path / "own")
    assert not (tmp_path / "own" / "config.json").exists()
    assert list(load_file(tmp_path / "own" / "model.safetensors")) == ["embedding.weight"]
    np.testing.assert_allclose(Peer(str(tmp_path / "own"), device="cpu").encode(texts), expected, atol=1e-6)
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "own"), device="cpu").encode(texts), expected, atol=1e-6)
    whole = make_model(Normalize()).encode(texts)
    assert np.allclose(whole, expected, atol=1e-6) == (max_length is None)

    tokenizer = make_tokenizer().backend_tokenizer
    if max_length is not None:
        tokenizer.enable_truncation(max_length)
    peer = Peer(modules=[PeerEmbedding(tokenizer, embedding_weights=torch.randn(WORDS, DIM))], device="cpu")
    peer.save_pretrained(str(tmp_path / "peer"))
    again = SentenceTransformer(str(tmp_path / "peer"), device="cpu")
    np.testing.assert_allclose(again.encode(texts), peer.encode(texts), atol=1e-6)


@pytest.mark.parametrize("quantised", [False, True])
def test_what_model2vec_wrote(tmp_path: Path, quantised: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    stored = {"embeddings": torch.randn(20 if quantised else WORDS, DIM, generator=generator)}
    if quantised:
        stored["mapping"] = torch.randint(20, (WORDS,), generator=generator)
        stored["weights"] = torch.rand(WORDS, generator=generator)
    make_tokenizer().save_pretrained(tmp_path)
    save_file(stored, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    model = StaticModel(name_or_path=str(tmp_path)).build()
    assert [type(m).__name__ for m in model.encoder.stack] == ["StaticEmbedding", "Normalize"]
    expected = Peer(modules=[PeerEmbedding.load(str(tmp_path))], device="cpu").encode(TEXTS[:2], normalize_embeddings=True)
    np.testing.assert_allclose(model.encode(TEXTS[:2]), expected, atol=1e-6)
    save_file({"other": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"expected embedding\.weight, or embeddings \(model2vec\), found other"):
        StaticEmbedding.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"), [({}, "either weight"), ({"weight": torch.ones(4, 2)}, r"shape \(4, 2\), but .* 101 tokens")]
)
def test_what_it_cannot_be_made_of(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StaticEmbedding(make_tokenizer(), **options)


def test_tokens_are_read_one_by_one(dense: Path) -> None:
    model = SentenceTransformer(str(dense), device="cpu")
    found = token_embeddings(model)
    words = ["w3", "document"]
    np.testing.assert_allclose(found[[VOCAB[w] for w in words]].numpy(), model.encode(words), atol=1e-6)
    assert found.shape == (WORDS, 32)


@pytest.mark.parametrize(("dimensions", "sif"), [(6, 1e-4), (None, None), (500, 1e-2)])
def test_distillation_is_that_of_a_naive_loop(dense: Path, dimensions: int | None, sif: float | None) -> None:
    """Up to signs of principal components, which products of vectors do not see."""
    model = SentenceTransformer(str(dense), device="cpu")
    vectors = token_embeddings(model).numpy()
    centred = vectors - vectors.mean(0)
    _, _, directions = np.linalg.svd(centred)
    kept = centred @ directions[: min(dimensions or 500, 32)].T
    total = sum(1 / rank for rank in range(1, WORDS + 1))
    weights = [1.0 if sif is None else sif / (sif + 1 / rank / total) for rank in range(1, WORDS + 1)]
    expected = np.stack([w * row for w, row in zip(weights, kept, strict=True)])
    found = distil_static(model, dimensions=dimensions, sif=sif).embedding.weight.detach().double().numpy()
    assert found.shape == expected.shape and np.abs(expected).max() > 1e-5
    scale = np.abs(expected @ expected.T).max()
    np.testing.assert_allclose(found @ found.T / scale, expected @ expected.T / scale, atol=1e-5)


def test_the_component(dense: Path, tmp_path: Path) -> None:
    distilled = StaticModel(name_or_path=str(dense), dimensions=5).build()
    assert distilled.encode(TEXTS).shape == (len(TEXTS), 5)
    np.testing.assert_allclose(np.linalg.norm(distilled.encode(TEXTS[:1]), axis=1), 1, atol=1e-6)
    distilled.save_pretrained(tmp_path)
    again = StaticModel(name_or_path=str(tmp_path), normalize=False, max_seq_length=2).build()
    assert len(again.encoder.stack) == 1, "a stored one is taken as it is"
    np.testing.assert_allclose(again.encode("w1 w2 w3"), again.encode("w1 w2"), atol=1e-6)
    torch.manual_seed(0)
    drawn = StaticModel(name_or_path=str(dense), start="random", dimensions=7).build()
    assert drawn.encode(TEXTS).shape == (len(TEXTS), 7)
