"""Tokens to representations: the modules of a model one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from stpipe.config.errors import ConfigError
from stpipe.core.reps import Rep
from stpipe.core.tokens import Tokens
from stpipe.models.layout import check_packing
from stpipe.models.modules.module import Module
from stpipe.models.modules.transformer import Transformer

LAYER = re.compile(r"layer_(\d+)")


class Encoder(nn.Module):
    """A stack of modules, in the order of the sentence-transformers format; the first one is the backbone.

    Everything is flat: token vectors (T, D) of all texts laid end to end, never padded after the backbone.
    """

    def __init__(self, modules: Iterable[Module]) -> None:
        super().__init__()
        self.stack = nn.ModuleList(modules)
        if not self.stack or not isinstance(self.stack[0], Transformer):
            raise ConfigError("the first module of an encoder must be a Transformer")
        self.layout_reason: str | None = None

    @property
    def backbone(self) -> Transformer:
        return self.stack[0]  # type: ignore[return-value]

    @property
    def tokenizer(self) -> Any:
        return self.backbone.tokenizer

    @property
    def layout(self) -> str:
        """packed or padded, see Transformer; layout_reason says why (None: nobody has chosen yet)."""
        return self.backbone.layout

    @layout.setter
    def layout(self, layout: str) -> None:
        self.backbone.layout = layout
        self.layout_reason = f"{layout}: set by the caller"

    def choose_layout(self) -> str:
        """Set the layout to packed where a self-check finds it exact, else to padded; returns the reason in one line."""
        exact, reason = check_packing(self.backbone)
        self.layout = "packed" if exact else "padded"
        self.layout_reason = reason
        return reason

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def embedding_dim(self) -> int:
        dim = 0
        for module in self.stack:
            assert isinstance(module, Module)
            dim = module.output_dim(dim)
        return dim

    def features(self, tokens: Tokens, *, hidden_states: bool = False) -> dict[str, Any]:
        """All that the modules computed: token_embeddings (T, D), sentence_embedding (N, D) and the inputs."""
        features: dict[str, Any] = {
            "input_ids": tokens.ids,
            "lengths": tokens.lengths,
            "prompt_lengths": tokens.prompt_lengths,
            "type_ids": tokens.type_ids,
            "want_hidden_states": hidden_states,
        }
        for module in self.stack:
            features = module(features)
        return features

    def forward(self, tokens: Tokens, outputs: frozenset[str] = frozenset()) -> Rep:
        """Embeddings (N, D). `outputs` names further ones: `layer_3` is the embedding made from the third layer's tokens."""
        layers = {name: self.layer_number(name) for name in sorted(outputs)}
        features = self.features(tokens, hidden_states=bool(layers))
        extras = {name: self.head(features, layer) for name, layer in layers.items()}
        return Rep(features["sentence_embedding"], extras=extras)

    def head(self, features: dict[str, Any], layer: int) -> Tensor:
        """The embedding (N, D) that the modules after the backbone make of the token vectors of one of its layers."""
        if layer == self.backbone.num_layers:  # some backbones normalise after their last layer
            return features["sentence_embedding"]
        features = {**features, "token_embeddings": features["hidden_states"][layer]}
        for module in list(self.stack)[1:]:
            features = module(features)
        vectors: Tensor = features["sentence_embedding"]
        return vectors

    def layer_number(self, name: str) -> int:
        match = LAYER.fullmatch(name)
        if match is None or not 0 <= int(match[1]) <= self.backbone.num_layers:
            raise ConfigError(f"unknown encoder output '{name}'. Known: layer_0 to layer_{self.backbone.num_layers}")
        return int(match[1])
