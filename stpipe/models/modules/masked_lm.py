"""A backbone with its masked-language-model head, up to but not including the product with the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stpipe.config.errors import ConfigError
from stpipe.models.modules.module import Features
from stpipe.models.modules.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The last layer of the head: weight (V, D), bias (V,) or None. Logits are `vectors @ weight.T + bias`."""

    weight: Tensor
    bias: Tensor | None


class VocabularyProjection(nn.Linear):
    """The last layer of the head, which hands on its input: whoever takes the vectors multiplies them with the weight.

    It has the parameters of the layer that it stands for, so the model is trained, saved and loaded as without it, and no
    forward ever holds token x word logits (a gigabyte for 32 texts of 256 tokens and 30,522 words).
    """

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors


class MaskedLanguageModel(Transformer):
    """A transformers model with a masked-language-model head ("fill-mask"): any architecture of AutoModelForMaskedLM.

    Adds `token_embeddings` (T, D), the transformed vectors that the vocabulary is multiplied with, and `vocabulary`. A model
    whose head does not end in a linear layer that can be taken apart is run whole: `token_embeddings` are then the
    logits (T, V), and there is no `vocabulary`. `head_reason` says which, and why.
    """

    task: ClassVar[str] = "fill-mask"
    output_name: ClassVar[str] = "logits"

    def __init__(self, model: PreTrainedModel, *, tokenizer: Any) -> None:
        super().__init__(model, tokenizer=tokenizer)
        self.head_reason = take_head_apart(model)
        self.fresh = False
        """Whether the head was made anew because the checkpoint had none."""

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The last layer of the head, None when it could not be taken apart."""
        layer = self.model.get_output_embeddings()
        return Vocabulary(layer.weight, layer.bias) if isinstance(layer, VocabularyProjection) else None

    def forward(self, features: Features) -> dict[str, Any]:
        out = super().forward(features)
        vocabulary = self.vocabulary
        return out if vocabulary is None else {**out, "vocabulary": vocabulary}

    def vectors(self, out: Any) -> Tensor:
        return out.logits

    def output_dim(self, input_dim: int = 0) -> int:
        return self.model.config.get_text_config().vocab_size


def take_head_apart(model: PreTrainedModel) -> str:
    """Let the model return vectors in place of logits, where trying it out finds that exact; says what was found."""
    name = type(model).__name__
    layer = model.get_output_embeddings()
    if layer is None:
        raise ConfigError(f"{name} has no masked-language-model head, which SPLADE needs")
    if not isinstance(layer, nn.Linear):
        return f"whole: the head of {name} ends in {type(layer).__name__}, not in a linear layer"
    whole = probe(model)
    model.set_output_embeddings(VocabularyProjection(layer))
    vectors = probe(model)
    if vectors.shape[-1] == layer.in_features:
        with torch.no_grad():
            logits = nn.functional.linear(vectors, layer.weight, layer.bias)
        difference = float((logits - whole).abs().max() / whole.abs().max().clamp(min=1e-12))
        if difference <= 1e-5 or (whole.dtype != torch.float32 and difference <= 3e-2):
            return f"apart: vectors and vocabulary give the logits of the model (largest relative difference {difference:.1e})"
    model.set_output_embeddings(layer)
    return f"whole: the head of {name} does more than its last linear layer"


def probe(model: PreTrainedModel) -> Tensor:
    """What the model gives for a short text of arbitrary tokens."""
    config = model.config.get_text_config()
    ids = torch.arange(1, 6, device=model.device) % config.vocab_size
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            values: Tensor = model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]).logits
    finally:
        model.train(training)
    return values
