"""The head of a transformers model on vectors of its base model that were made elsewhere, without touching the model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions


class Given(nn.Module):
    """Stands for a base model: whatever it is called with, it returns the vectors that it was made with, through its pooler."""

    def __init__(self, base: PreTrainedModel, vectors: Tensor) -> None:
        super().__init__()
        self.pooler = getattr(base, "pooler", None)
        self.vectors = vectors

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        pooled = None if self.pooler is None else self.pooler(self.vectors)
        return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=self.vectors, pooler_output=pooled)


def has_head(model: PreTrainedModel) -> bool:
    """Whether a model is a base model with something behind it, so that the two can be run apart."""
    return model.base_model_prefix in model._modules and model.base_model is not model


def logits_of(model: PreTrainedModel, vectors: Tensor, *, layers: Mapping[str, nn.Module] | None = None) -> Tensor:
    """What the code of a model makes of one vector a text (N, D), as if its base model had computed texts of one token.

    Args:
        model: a base model with a head, such as BertForSequenceClassification; it is not changed.
        vectors: with gradient.
        layers: name -> a layer that stands for one of the head.
    """
    view = copy.copy(model)  # the same parameters; only the table of its parts is its own
    view._modules = {**model._modules, model.base_model_prefix: Given(model.base_model, vectors[:, None]), **(layers or {})}
    config = view.config.get_text_config()
    if getattr(config, "pad_token_id", None) is None:  # some heads refuse several texts without one, but these need no padding
        view.config = copy.copy(view.config)
        view.config.pad_token_id = 0
    ids = torch.zeros(vectors.shape[0], 1, dtype=torch.int64, device=vectors.device)
    # Not through __call__ or the instance: hooks and wrappers around the model are not about its head.
    logits: Tensor = type(model).forward(view, input_ids=ids).logits
    return logits


def first_place(ids: Tensor, lengths: Tensor, pad_id: int | None) -> Tensor:
    """(N,) int64: places among the tokens (T,) of the first one of each text."""
    return (lengths.cumsum(0) - lengths).to(ids.device)


def very_last_place(ids: Tensor, lengths: Tensor, pad_id: int | None) -> Tensor:
    """(N,) int64: places of the last token of each text, whatever it is."""
    return (lengths.cumsum(0) - 1).to(ids.device)


def last_place(ids: Tensor, lengths: Tensor, pad_id: int | None) -> Tensor:
    """(N,) int64: places of the last token of each text that is not the padding token, which may be part of a text."""
    if pad_id is None:
        return very_last_place(ids, lengths, pad_id)
    place = torch.arange(ids.shape[0], device=ids.device)
    row = torch.repeat_interleave(torch.arange(lengths.shape[0]), lengths).to(ids.device)
    return first_place(ids, lengths, pad_id).scatter_reduce(0, row, torch.where(ids == pad_id, -1, place), "amax")


#: The one token of each text that a head looks at.
PLACES = {"first token": first_place, "last token": last_place, "very last token": very_last_place}
#: Heads that look at the mean of all tokens instead.
MEAN = "mean"
