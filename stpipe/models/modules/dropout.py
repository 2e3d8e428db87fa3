"""Dropout of the embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from stpipe.models.modules.module import Features, Module


class Dropout(Module):
    """Zero each feature of the embedding with probability `dropout` in training."""

    type_name = "sentence_transformers.sentence_transformer.modules.dropout.Dropout"

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout = dropout
        self.dropout_layer = nn.Dropout(dropout)

    def forward(self, features: Features) -> dict[str, Any]:
        return {**features, "sentence_embedding": self.dropout_layer(features["sentence_embedding"])}

    def config(self) -> dict[str, Any]:
        return {"dropout": self.dropout}

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Dropout:
        return cls(float(values.get("dropout", 0.2)))
