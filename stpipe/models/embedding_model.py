"""What the inference classes of embedding models have in common: queries and documents, similarity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from stpipe.config.errors import ConfigError
from stpipe.config.registry import unknown_name
from stpipe.models.base_model import BaseModel, LoadArguments
from stpipe.models.format import Settings
from stpipe.models.modules import Pooling
from stpipe.models.renamed import renamed
from stpipe.ops.similarity import SIMILARITIES

if TYPE_CHECKING:
    from typing import Unpack

DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class EmbeddingArguments(LoadArguments, total=False):
    """Arguments that every inference class of embeddings takes; see BaseModel and EmbeddingModel."""

    similarity_fn_name: str | None


class EmbeddingModel(BaseModel):
    """Texts to one representation each.

    Args:
        model_name_or_path: see BaseModel.
        similarity_fn_name: cosine, dot, euclidean or manhattan; None is the stored one, else the default of the class.
        options: see BaseModel.
    """

    default_prompts: ClassVar[Mapping[str, str]] = {"query": ""}
    default_similarity: ClassVar[str]
    encode: Callable[..., Any]
    """Representations of texts; each class has its own parameters."""

    def __init__(
        self, model_name_or_path: str | Path | None = None, *, similarity_fn_name: str | None = None, **options: Unpack[LoadArguments]
    ) -> None:
        super().__init__(model_name_or_path, **options)
        self.similarity_fn_name = similarity_fn_name or self.stored.similarity or self.default_similarity

    # Queries and documents

    def encode_query(
        self, inputs: str | Sequence[str] | None = None, prompt_name: str | None = None, prompt: str | None = None, **options: Any
    ) -> Any:
        """`encode` with the prompt named "query" (none when the model has none) unless another one is given, on the route
        "query" where the model has routes."""
        if prompt is None and prompt_name is None:
            prompt = self.prompts.get("query", "")
        return self.encode(inputs, prompt_name, prompt, **{**self._task("query"), **options})

    def encode_document(
        self, inputs: str | Sequence[str] | None = None, prompt_name: str | None = None, prompt: str | None = None, **options: Any
    ) -> Any:
        """`encode` with the first prompt of "document", "passage", "corpus" that the model has, unless another one is given, on
        the route "document" where the model has routes."""
        if prompt is None and prompt_name is None:
            prompt = self.document_prompt
        return self.encode(inputs, prompt_name, prompt, **{**self._task("document"), **options})

    def _task(self, name: str) -> dict[str, str]:
        return {"task": name} if name in self.encoder.routes else {}

    @property
    def document_prompt(self) -> str:
        return next((self.prompts[name] for name in DOCUMENT_PROMPTS if name in self.prompts), "")

    # Similarity

    @property
    def similarity_fn_name(self) -> str:
        """cosine, dot, euclidean or manhattan."""
        return self._similarity.name

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: str) -> None:
        key = str(getattr(name, "value", name))
        if key not in SIMILARITIES:
            raise ConfigError(unknown_name("similarity function", key, list(SIMILARITIES)))
        self._similarity = SIMILARITIES[key]

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """(N, M) similarity of all pairs of embeddings (arrays or tensors); distances are negated."""
        return self._similarity.matrix(as_rows(embeddings1), as_rows(embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """(N,) similarity of embeddings at equal places."""
        return self._similarity.paired(as_rows(embeddings1), as_rows(embeddings2))

    def get_embedding_dimension(self) -> int:
        """Width of the embeddings that `encode` returns."""
        return self.encoder.embedding_dim

    def get_sentence_embedding_dimension(self) -> int:
        """Old name of get_embedding_dimension."""
        renamed("get_sentence_embedding_dimension", "get_embedding_dimension")
        return self.get_embedding_dimension()

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Whether the tokens of a prompt take part in pooling."""
        for module in self:
            if isinstance(module, Pooling):
                module.include_prompt = include_prompt

    def settings(self) -> Settings:
        prompts = {"document": self.document_prompt, **self.prompts}
        return replace(super().settings(), prompts=prompts, similarity=self.similarity_fn_name)


def as_rows(embeddings: Any) -> Tensor:
    """(N, D) tensor from one vector or several: an array, a tensor or a list of either."""
    if isinstance(embeddings, (list, tuple)):
        embeddings = torch.stack([torch.as_tensor(e) for e in embeddings])
    rows = torch.as_tensor(embeddings)
    return rows.unsqueeze(0) if rows.ndim == 1 else rows
