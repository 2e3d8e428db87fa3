"""The inference class of sparse models, with the methods and parameters of the sentence-transformers documentation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from stpipe.config.errors import ConfigError
from stpipe.models import inference
from stpipe.models.base_model import as_texts, limit_of
from stpipe.models.embedding_model import EmbeddingModel, as_rows
from stpipe.models.format import LoadOptions, Settings
from stpipe.models.modules import Module, SparseAutoEncoder
from stpipe.models.sparse_stack import bare_sparse_stack, sparse_stack
from stpipe.ops.sparse import is_sparse

if TYPE_CHECKING:
    from typing import Unpack

    from stpipe.models.embedding_model import EmbeddingArguments

logger = logging.getLogger("stpipe")
Weighted = list[tuple[str, float]]


class SparseEncoder(EmbeddingModel):
    """A sparse embedding model: SPLADE, inference-free SPLADE, or a sparse autoencoder on a dense model (CSR).

    Args:
        model_name_or_path: directory, package://MODULE/SUBDIR or Hub id, of a SparseEncoder of sentence-transformers, of a
            fill-mask checkpoint (which becomes SPLADE with max pooling), or of a dense model (which gets a new
            autoencoder, to be trained).
        max_active_dims: keep only the largest so many weights of each text; None keeps all.
        options: see BaseModel and EmbeddingModel; similarity_fn_name is dot by default.
    """

    kind: ClassVar[str] = "sparse"
    model_type: ClassVar[str] = "SparseEncoder"
    default_similarity: ClassVar[str] = "dot"
    bare = staticmethod(bare_sparse_stack)

    def __init__(
        self, model_name_or_path: str | Path | None = None, *, max_active_dims: int | None = None, **options: Unpack[EmbeddingArguments]
    ) -> None:
        super().__init__(model_name_or_path, **options)
        check_active_dims(max_active_dims)
        latent = next((module.k for module in self.encoder.modules() if isinstance(module, SparseAutoEncoder)), None)
        self.max_active_dims = max_active_dims or self.stored.max_active_dims or latent

    @classmethod
    def read_stack(cls, path: Path, settings: Settings, options: LoadOptions) -> list[Module]:
        return sparse_stack(super().read_stack(path, settings, options))

    def encode(
        self,
        inputs: str | Sequence[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool = True,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: str | torch.device | None = None,
        max_active_dims: int | None = None,
        *,
        task: str | None = None,
    ) -> Any:
        """Sparse embeddings of texts.

        Args:
            inputs: one text (the result is one vector) or several.
            prompt_name: name of a prompt of the model.
            prompt: text put before each input; wins over prompt_name, which wins over the default prompt.
            batch_size: bounds the memory of a forward: no more tokens than so many texts of the maximum length.
            show_progress_bar: None shows it when the logger `stpipe` is at INFO or DEBUG.
            convert_to_tensor: one tensor (N, V); False gives a list of tensors (V,).
            convert_to_sparse_tensor: sparse COO tensors; False gives dense ones.
            save_to_cpu: move the results off the device as they are made.
            device: move the model there first.
            max_active_dims: keep the largest so many weights of each text; None is the model's own setting.
            task: route of the texts, for a model with a Router.
        """
        texts, single = as_texts(inputs)
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        check_active_dims(max_active_dims)
        if device is not None:
            self.to(device)
        show = logger.isEnabledFor(logging.INFO) if show_progress_bar is None else show_progress_bar
        limit = limit_of(self.encoder.input_of(task).tokenizer)
        active = max_active_dims or self.max_active_dims
        job = inference.Job(texts, self.resolve_prompt(prompt, prompt_name), batch_size, limit, show, task, active)
        with self.inference():
            rows = inference.sparse_embeddings(self.encoder, job, to_cpu=save_to_cpu)
        if single:
            rows = rows[0]
        elif not convert_to_tensor:
            vectors = vectors_of(rows)
            return vectors if convert_to_sparse_tensor else [densify(v) for v in vectors]
        return rows if convert_to_sparse_tensor else densify(rows)

    def settings(self) -> Settings:
        return replace(super().settings(), max_active_dims=self.max_active_dims)

    # Looking into embeddings

    @staticmethod
    def sparsity(embeddings: Tensor | Sequence[Tensor]) -> dict[str, float]:
        """active_dims: mean number of weights that are not zero; sparsity_ratio: share of those that are.

        Args:
            embeddings: (N, V) or (V,), sparse or dense, or a list of vectors.
        """
        rows = as_rows(embeddings)
        active = counts(rows)
        mean = float(active.double().mean()) if len(active) else 0.0
        return {"active_dims": mean, "sparsity_ratio": 1.0 - mean / rows.shape[1]}

    def decode(self, embeddings: Tensor, top_k: int | None = None) -> Weighted | list[Weighted]:
        """The words of each embedding with their weights, heaviest first.

        Args:
            embeddings: (N, V) or (V,), sparse or dense.
            top_k: at most so many words a text; None gives all.
        """
        rows = embeddings.unsqueeze(0) if embeddings.ndim == 1 else embeddings
        tokenizer = self.encoder.input_of("document" if "document" in self.encoder.routes else None).tokenizer
        found: list[Weighted] = []
        for vector in vectors_of(rows.to_sparse_coo().cpu()):
            weights = vector.values().float()
            order = weights.argsort(descending=True, stable=True)[:top_k]
            tokens = tokenizer.convert_ids_to_tokens(vector.indices()[0, order].tolist())
            found.append(list(zip(tokens, weights[order].tolist(), strict=True)))
        return found[0] if embeddings.ndim == 1 else found

    @staticmethod
    def intersection(embeddings_1: Tensor, embeddings_2: Tensor) -> Tensor:
        """The words that both have: product of the weights, sparse (V,) or (N, V).

        Args:
            embeddings_1: (V,), sparse or dense.
            embeddings_2: (V,) or (N, V).
        """
        if embeddings_1.ndim != 1:
            raise ConfigError(f"intersection: the first embedding must be one vector (V,), got shape {tuple(embeddings_1.shape)}")
        first = densify(embeddings_1)
        second = embeddings_2.to_sparse_coo().coalesce()
        values = second.values() * first[second.indices()[-1]]
        keep = values > 0
        return torch.sparse_coo_tensor(second.indices()[:, keep], values[keep], second.shape).coalesce()


def check_active_dims(max_active_dims: int | None) -> None:
    """A text keeps at least one weight; None keeps all."""
    if max_active_dims is not None and max_active_dims < 1:
        raise ConfigError(f"max_active_dims must be at least 1, got {max_active_dims}; None keeps all")


def densify(values: Tensor) -> Tensor:
    """The ordinary layout of a tensor."""
    return values.to_dense() if is_sparse(values) else values


def vectors_of(rows: Tensor) -> list[Tensor]:
    """Each row of a sparse COO tensor (N, V) as one of its own (V,), coalesced. To index row by row would search all entries each time."""
    rows = rows.coalesce()
    place, word = rows.indices()
    entries = torch.bincount(place, minlength=rows.shape[0]).tolist()
    parts = zip(word.split(entries), rows.values().split(entries), strict=True)
    # Copies, for a view of a tensor from inference mode cannot be taken apart again.
    return [
        torch.sparse_coo_tensor(w[None].clone(), values.clone(), rows.shape[1:], check_invariants=False, is_coalesced=True)
        for w, values in parts
    ]


def counts(rows: Tensor) -> Tensor:
    """(N,) number of values that are not zero in each row, sparse or dense."""
    if not is_sparse(rows):
        return (rows != 0).sum(1)
    sparse = rows.to_sparse_coo().coalesce()
    return torch.bincount(sparse.indices()[0][sparse.values() != 0], minlength=rows.shape[0])
