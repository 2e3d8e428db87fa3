"""What the modules of a model have in common: features in, features out, a folder on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stpipe.config.errors import ConfigError

Features = Mapping[str, Any]


class Module(nn.Module):
    """One step from tokens to an embedding.

    Takes the features so far and returns them with its own added, never changing the mapping that it got. Features:
    `token_embeddings` (T, D) and `input_ids` (T,) of all texts laid end to end, `lengths` (N,) and `prompt_lengths`
    (N,) or None on the CPU, and from the pooling on `sentence_embedding` (N, D).
    """

    type_name: ClassVar[str]
    """The type that sentence-transformers 6.2 writes in modules.json; the class name is its last part."""

    def forward(self, features: Features) -> dict[str, Any]:
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """The content of the module's config.json."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Module:
        """The module that a config.json describes; keys that the module does not know are ignored, as the format allows."""
        raise NotImplementedError

    def output_dim(self, input_dim: int) -> int:
        """Width of the embedding after this module, given the width before it."""
        return input_dim

    def save(self, directory: Path) -> None:
        """Write the configuration, and the weights when there are any."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(self.config(), indent=4), encoding="utf-8")
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        if weights:
            save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})

    @classmethod
    def load(cls, directory: Path) -> Module:
        """Read what `save` or any version of sentence-transformers wrote. A folder that is missing or empty means defaults."""
        file = directory / "config.json"
        module = cls.from_config(json.loads(file.read_text(encoding="utf-8")) if file.exists() else {})
        if module.state_dict():
            load_weights(module, directory)
        return module


def load_weights(module: nn.Module, directory: Path) -> None:
    """Fill a module from model.safetensors, else from pytorch_model.bin (tensors only, no code is run)."""
    safe, old = directory / "model.safetensors", directory / "pytorch_model.bin"
    weights: dict[str, Tensor]
    if safe.exists():
        weights = load_file(safe)
    elif old.exists():
        weights = torch.load(old, map_location="cpu", weights_only=True)
    else:
        raise ConfigError(f"{directory}: no weights for {type(module).__name__}; expected model.safetensors or pytorch_model.bin")
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(f"{directory}: the weights do not fit {type(module).__name__}: {error}") from error
