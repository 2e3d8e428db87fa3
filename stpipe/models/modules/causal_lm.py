"""A causal language model that says of each text which words may follow it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from stpipe.models.modules.head import logits_of
from stpipe.models.modules.headed import TOLERANCE, HeadedTransformer
from stpipe.models.modules.module import Features


class SomeWords(nn.Module):
    """The last layer of a language model for some words only. layer: of all words; words: those wanted."""

    def __init__(self, layer: nn.Linear, words: Sequence[int]) -> None:
        super().__init__()
        self.layer = layer
        self.words = list(words)

    def forward(self, vectors: Tensor) -> Tensor:
        bias = None if self.layer.bias is None else self.layer.bias[self.words]
        return linear(vectors, self.layer.weight[self.words], bias)


class CausalLanguageModel(HeadedTransformer):
    """A transformers language model ("text-generation"): any architecture of AutoModelForCausalLM.

    Adds `causal_logits`, a function from W words (their ids) to the logits (N, W) with which they follow each text. It multiplies the
    vector of the last token with the rows of those words only, so there are never logits (N, V) of all words, let alone of all tokens.
    """

    task: ClassVar[str] = "text-generation"
    module_output_name: ClassVar[str] = "causal_logits"
    picks: ClassVar[tuple[str, ...]] = ("very last token",)

    def __init__(self, model: PreTrainedModel, *, tokenizer: Any) -> None:
        super().__init__(model, tokenizer=tokenizer)
        self.last_layer = None if self.pick is None else find_last_layer(model)

    def forward(self, features: Features) -> dict[str, Any]:
        if self.pick is None:
            return {**features, "causal_logits": partial(columns, self.whole(features))}
        out = super().forward(features)
        return {**out, "causal_logits": partial(self.logits, out["picked"])}

    def logits(self, vectors: Tensor, words: Sequence[int]) -> Tensor:
        """(N, W) logits of some words, from the vector of the last token of each text (N, D)."""
        if self.last_layer is None:
            return columns(logits_of(self.model, vectors)[:, -1], words)
        layer = SomeWords(self.model.get_output_embeddings(), words)
        return logits_of(self.model, vectors, layers={self.last_layer: layer})[:, -1]

    def of_text(self, logits: Tensor, lengths: Tensor) -> Tensor:
        """The logits at the last token of each text."""
        return logits[torch.arange(logits.shape[0]), (lengths - 1).to(logits.device)]

    def output_dim(self, input_dim: int = 0) -> int:
        """Number of words."""
        return int(self.model.config.get_text_config().vocab_size)


def find_last_layer(model: PreTrainedModel) -> str | None:
    """Name of the last layer of the head, if it can be computed for some words only; tried out on one vector."""
    layer = model.get_output_embeddings()
    name = next((name for name, part in model._modules.items() if part is layer), None)
    if name is None or not isinstance(layer, nn.Linear):
        return None
    words = [0, layer.out_features // 2, layer.out_features - 1]
    vector = torch.linspace(-1, 1, layer.in_features, device=layer.weight.device, dtype=layer.weight.dtype)[None]
    with torch.no_grad():
        whole = columns(logits_of(model, vector)[:, -1], words)
        some = logits_of(model, vector, layers={name: SomeWords(layer, words)})[:, -1]
    return name if some.shape == whole.shape and torch.allclose(some, whole, rtol=TOLERANCE, atol=TOLERANCE) else None


def columns(logits: Tensor, words: Sequence[int]) -> Tensor:
    """(N, W) of (N, V)."""
    return logits[:, list(words)]
