"""From the tokens of a text to one vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stpipe.config.errors import ConfigError
from stpipe.config.registry import unknown_name
from stpipe.models.modules.module import Features, Module
from stpipe.ops.segments import segment_max, segment_sum

MODES: tuple[str, ...] = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

# Keys of versions before 5.4, in the order in which their vectors are concatenated.
OLD_KEYS: dict[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class Pooling(Module):
    """One vector a text, or several modes side by side.

    mean: sum of the tokens / n; mean_sqrt_len_tokens: / sqrt(n); weightedmean: weights 1, 2, ... by position; max; cls:
    first token; lasttoken: last one. Sums are taken in float32 for half precision. include_prompt=False leaves the
    tokens of the prompt out (the leading special token belongs to it); positions keep their numbers.
    """

    type_name = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"

    def __init__(self, embedding_dim: int, *, mode: str | Sequence[str] = "mean", include_prompt: bool = True) -> None:
        super().__init__()
        self.modes = (mode,) if isinstance(mode, str) else tuple(mode)
        for name in self.modes:
            if name not in MODES:
                raise ConfigError(unknown_name("pooling mode", name, list(MODES)))
        self.embedding_dim = embedding_dim
        self.include_prompt = include_prompt

    def forward(self, features: Features) -> dict[str, Any]:
        tokens: Tensor = features["token_embeddings"]
        lengths: Tensor = features["lengths"]
        skip = None if self.include_prompt else features.get("prompt_lengths")
        if skip is not None:
            skip = torch.minimum(skip, lengths)
        vectors = [POOLERS[mode](tokens, lengths, skip) for mode in self.modes]
        return {**features, "sentence_embedding": vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=-1)}

    def output_dim(self, input_dim: int) -> int:
        return self.embedding_dim * len(self.modes)

    def config(self) -> dict[str, Any]:
        mode: str | list[str] = self.modes[0] if len(self.modes) == 1 else list(self.modes)
        return {"embedding_dimension": self.embedding_dim, "pooling_mode": mode, "include_prompt": self.include_prompt}

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Pooling:
        dim = values.get("embedding_dimension", values.get("word_embedding_dimension"))
        if dim is None:
            raise ConfigError("Pooling: config.json has neither embedding_dimension nor word_embedding_dimension")
        mode = values.get("pooling_mode") or [new for old, new in OLD_KEYS.items() if values.get(old)] or "mean"
        return cls(int(dim), mode=mode, include_prompt=bool(values.get("include_prompt", True)))


def positions(lengths: Tensor) -> Tensor:
    """(T,) int64: place of each token in its text, from 0."""
    starts = lengths.cumsum(0) - lengths
    return torch.arange(int(lengths.sum())) - torch.repeat_interleave(starts, lengths)


def counted(lengths: Tensor, skip: Tensor | None) -> Tensor | None:
    """(T,) bool: tokens after the prompt; None when all count."""
    return None if skip is None else positions(lengths) >= torch.repeat_interleave(skip, lengths)


def column(values: Tensor, like: Tensor) -> Tensor:
    """Values (n,) of the host as a float column (n, 1) beside `like`, in the type that sums are taken in."""
    wide = torch.float32 if like.dtype in (torch.float16, torch.bfloat16) else like.dtype
    return values.to(like.device, wide)[:, None]


def total(tokens: Tensor, lengths: Tensor, skip: Tensor | None) -> Tensor:
    keep = counted(lengths, skip)
    return segment_sum(tokens if keep is None else tokens * column(keep, tokens), lengths)


def numbers(lengths: Tensor, skip: Tensor | None) -> Tensor:
    return (lengths if skip is None else lengths - skip).clamp(min=1)


def pool_mean(tokens: Tensor, lengths: Tensor, skip: Tensor | None) -> Tensor:
    return (total(tokens, lengths, skip) / column(numbers(lengths, skip), tokens)).to(tokens.dtype)


def pool_mean_sqrt(tokens: Tensor, lengths: Tensor, skip: Tensor | None) -> Tensor:
    return (total(tokens, lengths, skip) / column(numbers(lengths, skip), tokens).sqrt()).to(tokens.dtype)


def pool_weighted_mean(tokens: Tensor, lengths: Tensor, skip: Tensor | None) -> Tensor:
    weights = positions(lengths) + 1
    keep = counted(lengths, skip)
    if keep is not None:
        weights = weights * keep
    column_T = column(weights, tokens)
    return (segment_sum(tokens * column_T, lengths) / segment_sum(column_T, lengths).clamp(min=1e-9)).to(tokens.dtype)


def pool_max(tokens: Tensor, lengths: Tensor, skip: Tensor | None) -> Tensor:
    keep = counted(lengths, skip)
    if keep is not None:
        tokens = tokens.masked_fill(~keep.to(tokens.device)[:, None], float("-inf"))
    return segment_max(tokens, lengths)


def pool_first(tokens: Tensor, lengths: Tensor, skip: Tensor | None) -> Tensor:
    first = lengths.cumsum(0) - lengths
    if skip is not None:
        first = first + torch.where(skip < lengths, skip, 0)  # nothing after the prompt: the very first token
    return tokens[first.to(tokens.device)]


def pool_last(tokens: Tensor, lengths: Tensor, skip: Tensor | None) -> Tensor:
    return tokens[(lengths.cumsum(0) - 1).to(tokens.device)]


POOLERS = {
    "cls": pool_first,
    "max": pool_max,
    "mean": pool_mean,
    "mean_sqrt_len_tokens": pool_mean_sqrt,
    "weightedmean": pool_weighted_mean,
    "lasttoken": pool_last,
}
