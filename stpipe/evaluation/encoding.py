"""Texts -> embeddings for evaluation, by the calls that a user of the model would make."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor

T = TypeVar("T", bound=Hashable)


class EmbeddingModel(Protocol):
    """The part of an inference class that evaluators use. The encoding methods take `prompt` and `batch_size` as keywords.

    kind: "dense" or "sparse"; it decides how embeddings are held and compared (evaluation/spaces.py).
    """

    similarity_fn_name: str

    @property
    def kind(self) -> str: ...

    @property
    def encode(self) -> Callable[..., Any]: ...

    @property
    def encode_query(self) -> Callable[..., Any]: ...

    @property
    def encode_document(self) -> Callable[..., Any]: ...

    def similarity(self, a: Tensor, b: Tensor, /) -> Tensor: ...

    def similarity_pairwise(self, a: Tensor, b: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class EncodeOptions:
    """How texts are encoded.

    batch_size: texts a forward; truncate_dim (dense models), max_active_dims (sparse ones): keep so many dimensions, None
    is the model's own setting.
    """

    batch_size: int
    truncate_dim: int | None = None
    max_active_dims: int | None = None


def distinct(texts: Sequence[T]) -> tuple[list[T], list[int] | None]:
    """The texts (or pairs of texts) without repeats, and the place of each among them; None when nothing repeats."""
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return list(place), None if len(place) == len(texts) else [place[text] for text in texts]
