"""Layer normalisation of the embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from stpipe.models.modules.module import Features, Module


class LayerNorm(Module):
    """Layer normalisation with weight and bias over `dimension` features."""

    type_name = "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm"

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension
        self.norm = nn.LayerNorm(dimension)

    def forward(self, features: Features) -> dict[str, Any]:
        return {**features, "sentence_embedding": self.norm(features["sentence_embedding"])}

    def config(self) -> dict[str, Any]:
        return {"dimension": self.dimension}

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> LayerNorm:
        return cls(int(values["dimension"]))
