"""What the modules of a model have in common: features in, features out, a folder on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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
    (N,) or None on the CPU, and from the pooling on `sentence_embedding` (N, D), in models of pairs `scores` (N, C). `route` is the way through a Router (None:
    its default), `outputs` the names of further features that a loss asked for.

    A module that stands first (is_input) also has a `tokenizer`; with special_tokens False its texts are tokenised without
    special tokens.
    """

    fixed: bool = False
    """Set by `fix`: the module stays in evaluation mode, whatever the model around it does."""
    type_name: ClassVar[str]
    """The type that sentence-transformers 6.2 writes in modules.json; the class name is its last part."""
    is_input: ClassVar[bool] = False
    special_tokens: ClassVar[bool] = True

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

    @property
    def feature(self) -> str:
        """Name of the feature that a model hands out when this module is its last one."""
        return "sentence_embedding"

    def input_of(self, route: str | None) -> Module:
        """The module that texts of a route enter by: this one, unless it is a Router."""
        return self

    def path_of(self, route: str | None) -> tuple[Module, ...]:
        """The modules that texts of a route go through here: this one, unless it is a Router."""
        return (self,)

    @property
    def route_names(self) -> tuple[str, ...]:
        """The routes to choose from; none, unless this is a Router."""
        return ()

    def fix(self) -> None:
        """Keep the module as it is: its weights are not trained, and it is without dropout in training, too. Not stored."""
        self.fixed = True
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Module:
        """Training mode, or evaluation mode; the latter always for a module that is fixed."""
        return super().train(mode and not self.fixed)

    def advance(self, reduce_max: Callable[[Tensor], Tensor] | None = None) -> None:
        """An optimiser step is done; for state that follows the steps, which a forward must not change.

        reduce_max: elementwise maximum of a tensor over processes; None with one process.
        """

    def forget(self) -> None:
        """Drop what forwards noted for the next `advance`: they belonged to no step."""

    @classmethod
    def folder_name(cls) -> str:
        """The class name of the format, which folders carry."""
        return cls.type_name.rsplit(".", 1)[-1]

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
        module = cls.from_config(read_config(directory))
        if module.state_dict():
            load_weights(module, directory)
        return module

    @classmethod
    def read(cls, directory: Path, *, read_module: Callable[[str, Path], Module]) -> Module:
        """The module in a folder. A module that holds others reads them by `read_module(type of the format, folder)`."""
        return cls.load(directory)


def load_weights(module: nn.Module, directory: Path) -> None:
    """Fill a module with the weights that its folder holds; each must be there and fit."""
    fill(module, read_weights(directory, type(module).__name__), directory)


def read_config(directory: Path) -> dict[str, Any]:
    """Content of a module's config.json; empty when there is none."""
    file = directory / "config.json"
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return values


def read_weights(directory: Path, name: str) -> dict[str, Tensor]:
    """The weights of the module `name` in model.safetensors, else in pytorch_model.bin (tensors only, no code is run)."""
    safe, old = directory / "model.safetensors", directory / "pytorch_model.bin"
    if safe.exists():
        return load_file(safe)
    if old.exists():
        weights: dict[str, Tensor] = torch.load(old, map_location="cpu", weights_only=True)
        return weights
    raise ConfigError(f"{directory}: no weights for {name}; expected model.safetensors or pytorch_model.bin")


def fill(module: nn.Module, weights: Mapping[str, Tensor], directory: Path) -> None:
    """Put weights read from a directory into a module."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(f"{directory}: the weights do not fit {type(module).__name__}: {error}") from error
