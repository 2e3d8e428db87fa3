"""Keys of sparse models that stored weights must not make void."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stpipe.config.errors import ConfigError
from stpipe.models import CSRModel, InferenceFreeSpladeModel, SentenceTransformer, SpladeModel
from stpipe.models.modules import Dropout, Pooling, SparseAutoEncoder
from tests.models.tiny import make_backbone, make_tokens
from tests.models.tiny_splade import save_checkpoint, splade_model


def test_a_stored_autoencoder_and_keys_that_say_otherwise(tmp_path: Path) -> None:
    SentenceTransformer(modules=[make_backbone("bert"), Pooling(32)], device="cpu").save_pretrained(tmp_path / "dense")
    made = CSRModel(str(tmp_path / "dense"), k=5, hidden_dim=64).build()
    made.save_pretrained(tmp_path / "csr")
    again = CSRModel(str(tmp_path / "csr"), k=5).build()
    latent = again[2]
    assert isinstance(latent, SparseAutoEncoder) and (latent.k, latent.hidden_dim) == (5, 64)
    with pytest.raises(ConfigError, match=r"model\.hidden_dim: is 128, .* has 64.*\n.*model\.k: is 6, .* has 5\. Remove the key"):
        CSRModel(str(tmp_path / "csr"), k=6, hidden_dim=128).build()


def test_no_autoencoder_on_words(tmp_path: Path) -> None:
    splade_model().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"sparse model of words \(SpladePooling\).*model=splade"):
        CSRModel(str(tmp_path)).build()


def test_a_frozen_encoder_has_no_dropout_in_training(tmp_path: Path) -> None:
    stack = [make_backbone("bert"), Pooling(32), Dropout(0.5)]
    SentenceTransformer(modules=stack, device="cpu").save_pretrained(tmp_path)
    tokens = make_tokens([12, 7, 5])

    def passes(freeze: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        model = CSRModel(str(tmp_path), freeze_encoder=freeze).build()
        still = model(tokens, outputs=frozenset({"sae_input"})).extras["sae_input"]
        first, second = (model.train()(tokens, outputs=frozenset({"sae_input"})).extras["sae_input"] for _ in range(2))
        with model.inference():
            pass
        assert model[3].training and model[0].training == (not freeze)
        assert {p.requires_grad for m in list(model)[:3] for p in m.parameters()} == ({False} if freeze else {True, False})
        assert all(p.requires_grad for p in model[3].parameters())
        model.save_pretrained(tmp_path / "saved")
        return still, first, second

    still, first, second = passes(freeze=True)
    assert float(still.abs().max()) > 0.1
    assert torch.equal(still, first) and torch.equal(first, second)
    stored = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert stored["hidden_dropout_prob"] == 0.1, "whoever trains the model later has its dropout again"
    _, first, second = passes(freeze=False)
    assert not torch.allclose(first, second)


def test_what_start_weights_store_besides(tmp_path: Path) -> None:
    """Prompts are kept; a similarity only from a model of the same kind."""
    dense = [make_backbone("bert"), Pooling(32)]
    SentenceTransformer(modules=dense, device="cpu", prompts={"query": "q: "}, similarity_fn_name="cosine").save_pretrained(tmp_path / "d")
    splade_model(prompts={"query": "w: "}, similarity_fn_name="cosine", max_active_dims=9).save_pretrained(tmp_path / "s")
    csr = CSRModel(str(tmp_path / "d"), prompts={"document": "d: "}).build()
    assert (csr.prompts, csr.similarity_fn_name) == ({"query": "q: ", "document": "d: "}, "dot")
    splade = SpladeModel(str(tmp_path / "s")).build()
    assert (splade.prompts["query"], splade.similarity_fn_name, splade.max_active_dims) == ("w: ", "cosine", 9)
    other = SpladeModel(str(tmp_path / "s"), similarity="dot", max_active_dims=4).build()
    assert (other.similarity_fn_name, other.max_active_dims, other.name_or_path) == ("dot", 4, str(tmp_path / "s"))


def test_stored_query_weights_can_be_frozen(tmp_path: Path) -> None:
    InferenceFreeSpladeModel(str(save_checkpoint(tmp_path / "mlm"))).build().save_pretrained(tmp_path / "model")

    def frozen(folder: str, freeze: bool) -> tuple[bool, bool]:
        model = InferenceFreeSpladeModel(str(tmp_path / folder), freeze_query=freeze).build()
        static = model.encoder.input_of("query")
        model.save_pretrained(tmp_path / "again")
        return static.frozen, not static.weight.requires_grad

    assert frozen("model", False) == (False, False)
    assert frozen("model", True) == (True, True)
    assert frozen("again", False) == (True, True)  # as stored
