"""Texts -> embeddings for evaluation, by the calls that a user of the model would make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from stpipe.config.errors import TrainingError
from stpipe.ops.similarity import SIMILARITIES

# float64 keeps rankings independent of how the corpus was cut into chunks; accelerators without it score on the CPU.
FLOAT64_DEVICES = ("cpu", "cuda")


class EmbeddingModel(Protocol):
    """The part of an inference class that evaluators use. The encoding methods take `prompt` and `batch_size` as keywords."""

    similarity_fn_name: str

    @property
    def encode(self) -> Callable[..., Any]: ...

    @property
    def encode_query(self) -> Callable[..., Any]: ...

    @property
    def encode_document(self) -> Callable[..., Any]: ...

    def similarity(self, a: Tensor, b: Tensor, /) -> Tensor: ...

    def similarity_pairwise(self, a: Tensor, b: Tensor, /) -> Tensor: ...


def embed(encode: Callable[..., Any], texts: Sequence[str], *, prompt: str | None, batch_size: int, truncate_dim: int | None) -> Tensor:
    """(N, D) float64 embeddings of the texts, each distinct text encoded once.

    Args:
        encode: `encode`, `encode_query` or `encode_document` of a model.
        prompt: put before each text; None leaves the choice to the model, "" is no prompt.
        batch_size: texts a forward.
        truncate_dim: keep so many dimensions; None is the model's own setting.
    """
    distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    cut = {} if truncate_dim is None else {"truncate_dim": truncate_dim}
    options: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": False, "convert_to_tensor": True, **cut}
    values: Tensor = encode(list(distinct), prompt=prompt, **options).detach()
    bad = int((~torch.isfinite(values).all(dim=1)).sum())
    if bad:
        raise TrainingError(f"the model gives embeddings with NaN or infinite values for {bad} of {len(distinct)} texts; it has diverged")
    if values.device.type not in FLOAT64_DEVICES:
        values = values.cpu()
    values = values.double()
    if len(distinct) == len(texts):
        return values
    return values[torch.tensor([distinct[text] for text in texts], device=values.device)]


def paired_similarity(model: EmbeddingModel, name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """(N, D), (N, D) -> (N,): similarity of each pair, higher = more alike, by the model's own function when it is that."""
    return model.similarity_pairwise if name == model.similarity_fn_name else SIMILARITIES[name].paired


def matrix_similarity(model: EmbeddingModel, name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """(N, D), (M, D) -> (N, M): similarity of all pairs, higher = more alike, by the model's own function when it is that."""
    return model.similarity if name == model.similarity_fn_name else SIMILARITIES[name].matrix
