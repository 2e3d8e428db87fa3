"""Tokens to representations: the modules of a model one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.formats import side_of
from stpipe.config.registry import unknown_name
from stpipe.core.reps import Rep
from stpipe.core.tokens import Tokens
from stpipe.models.layout import check_packing
from stpipe.models.modules.module import Module
from stpipe.models.modules.transformer import Transformer

LAYER = re.compile(r"layer_(\d+)")


class Encoder(nn.Module):
    """A stack of modules, in the order of the sentence-transformers format; the first one takes the tokens.

    Everything is flat: token vectors (T, D) of all texts laid end to end, never padded after the backbone. A Router at the
    front sends queries and documents through modules of their own; which way a text goes is its `route`.
    """

    def __init__(self, modules: Iterable[Module]) -> None:
        super().__init__()
        self.stack = nn.ModuleList(modules)
        if not self.stack or not self.first.is_input:
            raise ConfigError("the first module of an encoder must take tokens: a Transformer, a static embedding or a Router")
        self.layout_reason: str | None = None

    @property
    def first(self) -> Module:
        return self.stack[0]  # type: ignore[return-value]

    def parts(self) -> Iterator[Module]:
        """All modules of the format, also those inside a Router, each once."""
        return (module for module in self.modules() if isinstance(module, Module))

    @property
    def backbones(self) -> tuple[Transformer, ...]:
        """All transformers, on every route."""
        return tuple(module for module in self.modules() if isinstance(module, Transformer))

    @property
    def backbone(self) -> Transformer:
        """The first transformer."""
        found = self.backbones
        if not found:
            raise ConfigError("this model has no transformer")
        return found[0]

    @property
    def routes(self) -> tuple[str, ...]:
        """Names of the routes; none when all texts go the same way."""
        return self.first.route_names

    def route_of(self, role: str, own: Mapping[str, str] | None = None) -> str | None:
        """The route that the texts of a role take; None when there is nothing to choose.

        Args:
            role: role of the texts, such as anchor or positive.
            own: role -> route, where it is not `query` for anchors and queries and `document` for all others.

        Raises:
            ConfigError: the model has no such route, or none at all although `own` names some.
        """
        if not self.routes and own:
            raise ConfigError(Problem("dataset.routes", "the model has no Router, so all texts go the same way; remove the key"))
        if not self.routes:
            return None
        route = (own or {}).get(role, side_of(role))
        if route not in self.routes:
            raise ConfigError(unknown_name("route", route, list(self.routes)))
        return route

    def path_of(self, route: str | None) -> tuple[Module, ...]:
        """The modules that texts of a route go through, in order."""
        return tuple(part for module in self.stack for part in module.path_of(route))  # type: ignore[operator]

    def input_of(self, route: str | None = None) -> Any:
        """The module that texts of a route enter by; it has their tokenizer."""
        return self.first.input_of(route)

    @property
    def tokenizer(self) -> Any:
        return self.input_of().tokenizer

    @property
    def layout(self) -> str:
        """packed or padded, see Transformer; layout_reason says why (None: nobody has chosen yet)."""
        return "padded" if any(backbone.layout == "padded" for backbone in self.backbones) else "packed"

    @layout.setter
    def layout(self, layout: str) -> None:
        for backbone in self.backbones:
            backbone.layout = layout
        self.layout_reason = f"{layout}: set by the caller"

    def choose_layout(self) -> str:
        """Set the layout to packed where a self-check finds it exact, else to padded; returns the reason in one line."""
        checks = [check_packing(backbone) for backbone in self.backbones]
        exact = all(found for found, _ in checks)
        for backbone in self.backbones:
            backbone.layout = "packed" if exact else "padded"
        reason = next((why for found, why in checks if found == exact), "packed: no transformer, so there is nothing to pad")
        self.layout_reason = reason
        return reason

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def feature(self) -> str:
        """What the last module adds: `sentence_embedding`, or `scores` in a model of pairs."""
        return self.stack[-1].feature  # type: ignore[return-value]

    @property
    def embedding_dim(self) -> int:
        """Width of that feature: of the embedding, or number of scores."""
        dim = 0
        for module in self.path_of(None):
            dim = module.output_dim(dim)
        return dim

    def features(
        self,
        tokens: Tokens,
        *,
        outputs: frozenset[str] = frozenset(),
        route: str | None = None,
        hidden_states: bool = False,
        max_active_dims: int | None = None,
    ) -> dict[str, Any]:
        """All that the modules computed: token_embeddings (T, D), sentence_embedding (N, D) or scores (N, C), and the inputs."""
        features: dict[str, Any] = {
            "input_ids": tokens.ids,
            "lengths": tokens.lengths,
            "prompt_lengths": tokens.prompt_lengths,
            "type_ids": tokens.type_ids,
            "want_hidden_states": hidden_states,
            "outputs": outputs,
            "route": route,
            "max_active_dims": max_active_dims,
        }
        for module in self.stack:
            features = module(features)
        return features

    def forward(self, tokens: Tokens, outputs: frozenset[str] = frozenset(), route: str | None = None) -> Rep:
        """Embeddings (N, D), or scores (N, C). `outputs` names further ones: `layer_3` is the embedding made from the third layer's tokens,
        other names are what a module of the model adds when it is asked for it."""
        layers = {name: self.layer_number(name) for name in sorted(outputs) if LAYER.fullmatch(name)}
        features = self.features(tokens, outputs=outputs, route=route, hidden_states=bool(layers))
        extras = {name: self.head(features, layer) for name, layer in layers.items()}
        for name in sorted(outputs - layers.keys()):
            if name not in features:
                raise ConfigError(f"no module of this model has an output '{name}'. The loss that asks for it is for another kind of model")
            extras[name] = features[name]
        return Rep(features[self.feature], extras=extras)

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
