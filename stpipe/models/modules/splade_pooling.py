"""From the words that each token predicts to the words that a text is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stpipe.config.errors import ConfigError
from stpipe.config.registry import unknown_name
from stpipe.models.modules.module import Features, Module
from stpipe.ops.segments import segment_max, segment_sum
from stpipe.ops.splade_head import splade_head

POOLINGS: tuple[str, ...] = ("max", "sum")
ACTIVATIONS: tuple[str, ...] = ("relu", "log1p_relu")


class SpladePooling(Module):
    """Weight of word v in a text: pool over its tokens t of log(1 + relu(logit_tv)).

    max is SPLADE v2 (arXiv:2109.10086), sum the first SPLADE (arXiv:2107.05720). activation log1p_relu takes the logarithm
    of one plus twice (arXiv:2504.14839). Tokens of a prompt take part like all others, as in the format.
    The logits are never held as a whole; see ops/splade_head.py.
    """

    type_name = "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling"

    def __init__(self, *, pooling: str = "max", activation: str = "relu", embedding_dim: int | None = None) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ConfigError(unknown_name("SPLADE pooling", pooling, list(POOLINGS)))
        if activation not in ACTIVATIONS:
            raise ConfigError(unknown_name("SPLADE activation", activation, list(ACTIVATIONS)))
        self.pooling = pooling
        self.activation = activation
        self.embedding_dim = embedding_dim

    def forward(self, features: Features) -> dict[str, Any]:
        tokens: Tensor = features["token_embeddings"]
        vocabulary = features.get("vocabulary")
        if vocabulary is None:
            weights = pool_logits(tokens, features["lengths"], pooling=self.pooling, activation=self.activation)
        else:
            weights = splade_head(
                tokens,
                vocabulary.weight,
                bias=vocabulary.bias,
                lengths=features["lengths"],
                pooling=self.pooling,
                activation=self.activation,
            )
        return {**features, "sentence_embedding": weights}

    def output_dim(self, input_dim: int) -> int:
        return input_dim

    def config(self) -> dict[str, Any]:
        return {"pooling_strategy": self.pooling, "activation_function": self.activation, "embedding_dimension": self.embedding_dim}

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> SpladePooling:
        return cls(
            pooling=values.get("pooling_strategy") or "max",
            activation=values.get("activation_function") or "relu",
            embedding_dim=values.get("embedding_dimension", values.get("word_embedding_dimension")),
        )


def pool_logits(logits: Tensor, lengths: Tensor, *, pooling: str, activation: str) -> Tensor:
    """(T, V) logits -> (N, V) weights, for backbones whose head cannot be taken apart."""
    weights = logits.float().relu().log1p()
    if activation == "log1p_relu":
        weights = weights.log1p()
    return segment_max(weights, lengths) if pooling == "max" else segment_sum(weights, lengths)
