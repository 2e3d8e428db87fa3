"""A vector a token and no network: the mean of the vectors of a text's tokens."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from stpipe.config.errors import ConfigError
from stpipe.models.modules.module import Features, Module, read_weights
from stpipe.models.modules.sparse_static_embedding import vocabulary_size
from stpipe.models.tokenizer import UNLIMITED, load_tokenizer


class StaticEmbedding(Module):
    """Embedding of a text: (1/n) sum of the vectors of its n tokens, those of a prompt included; zeros for a text of no tokens.

    Texts are tokenised without special tokens, and cut where tokenizer.json says so, which it does for no static model that is made
    new. What is read from model2vec is folded into one vector a token: vector of `mapping[token]`, times `weights[token]`.

    Args:
        tokenizer: a transformers tokenizer; a copy of it is kept.
        weight: (V, D) vectors; None draws them from N(0, 1), D = dimensions.
        dimensions: D of a new embedding; not given with `weight`.
        max_length: longest text in tokens; None has no limit.

    Raises:
        ConfigError: neither or both of weight and dimensions, or fewer vectors than the tokenizer has tokens.
    """

    type_name = "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding"
    is_input = True
    special_tokens = False

    def __init__(
        self, tokenizer: Any, *, weight: Tensor | None = None, dimensions: int | None = None, max_length: int | None = None
    ) -> None:
        super().__init__()
        if (weight is None) == (dimensions is None):
            raise ConfigError("StaticEmbedding: give either weight (V, D), or dimensions for vectors that are drawn")
        words = vocabulary_size(tokenizer)
        values = torch.randn(words, dimensions or 0) if weight is None else weight.detach().clone()
        if values.dim() != 2 or values.shape[0] < words:
            raise ConfigError(
                f"StaticEmbedding: weight has shape {tuple(values.shape)}, but the tokenizer has {words} tokens; give one vector a token, "
                "shape (V, D) with V at least that"
            )
        self.tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.model_max_length = max_length or UNLIMITED
        self.embedding = nn.Embedding(values.shape[0], values.shape[1], _weight=values)

    def forward(self, features: Features) -> dict[str, Any]:
        """Sets sentence_embedding (N, D) of input_ids (T,) and lengths (N,)."""
        ids, lengths = features["input_ids"], features["lengths"]
        offsets = (lengths.cumsum(0) - lengths).to(ids.device, non_blocking=True)
        return {**features, "sentence_embedding": embedding_bag(ids, self.embedding.weight, offsets, mode="mean")}

    def output_dim(self, input_dim: int = 0) -> int:
        return self.embedding.embedding_dim

    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Module:
        raise NotImplementedError("a StaticEmbedding also needs a tokenizer; read it with load")

    def save(self, directory: Path) -> None:
        """model.safetensors and the files of the tokenizer."""
        super().save(directory)
        (directory / "config.json").unlink()  # the format has none here, and another reader would take it for a transformer's
        written, limit = copy.deepcopy(self.tokenizer), self.tokenizer.model_max_length
        written.backend_tokenizer.no_padding()
        written.backend_tokenizer.no_truncation()
        if limit < UNLIMITED:
            written.backend_tokenizer.enable_truncation(limit)
        written.save_pretrained(directory)

    @classmethod
    def load(cls, directory: Path) -> StaticEmbedding:
        """Read a folder that this class, sentence-transformers or model2vec wrote."""
        stored = read_weights(directory, cls.__name__)
        weight = stored.get("embedding.weight")
        if weight is None:
            weight = folded(stored, directory)
        tokenizer = load_tokenizer(directory)
        cut = tokenizer.backend_tokenizer.truncation
        return cls(tokenizer, weight=weight.float(), max_length=cut["max_length"] if cut else None)


def folded(stored: Mapping[str, Tensor], directory: Path) -> Tensor:
    """(V, D) vectors of the tokens from what model2vec stores: `embeddings` (U, D), perhaps `mapping` (V,) and `weights` (V,)."""
    vectors = stored.get("embeddings")
    if vectors is None:
        found = ", ".join(sorted(stored)) or "nothing"
        raise ConfigError(f"{directory}: no static embedding; expected embedding.weight, or embeddings (model2vec), found {found}")
    if "mapping" in stored:
        vectors = vectors[stored["mapping"].long()]
    if "weights" in stored:
        vectors = vectors.float() * stored["weights"].float()[:, None]
    return vectors
