"""Unit length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.nn.functional import normalize

from stpipe.models.modules.module import Features, Module


class Normalize(Module):
    """Divide each embedding by its L2 norm."""

    type_name = "sentence_transformers.base.modules.normalize.Normalize"

    def __init__(self, *, input_name: str = "sentence_embedding", output_name: str | None = None) -> None:
        super().__init__()
        self.input_name = input_name
        self.output_name = output_name or input_name

    def forward(self, features: Features) -> dict[str, Any]:
        return {**features, self.output_name: normalize(features[self.input_name], p=2, dim=-1)}

    def config(self) -> dict[str, Any]:
        return {"module_input_name": self.input_name, "module_output_name": self.output_name}

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Normalize:
        return cls(input_name=values.get("module_input_name") or "sentence_embedding", output_name=values.get("module_output_name"))
