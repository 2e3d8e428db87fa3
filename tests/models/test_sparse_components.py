"""Keys of sparse models that stored weights must not make void."""

from __future__ import annotations

from pathlib import Path

import pytest

from stpipe.config.errors import ConfigError
from stpipe.models import CSRModel, InferenceFreeSpladeModel, SentenceTransformer
from stpipe.models.modules import Pooling, SparseAutoEncoder
from tests.models.tiny import make_backbone
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
