"""The inference class of dense models, with the methods and parameters of the sentence-transformers documentation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from stpipe.config.errors import ConfigError
from stpipe.config.registry import unknown_name
from stpipe.models import inference
from stpipe.models.base_model import as_texts, limit_of
from stpipe.models.embedding_model import EmbeddingModel
from stpipe.models.format import Settings
from stpipe.models.quantize import check_precision, quantize
from stpipe.models.renamed import renamed

if TYPE_CHECKING:
    from typing import Unpack

    from stpipe.models.embedding_model import EmbeddingArguments

logger = logging.getLogger("stpipe")


class SentenceTransformer(EmbeddingModel):
    """A dense embedding model.

    Args:
        model_name_or_path: directory, package://MODULE/SUBDIR or Hub id, of a sentence-transformers model or of a bare
            transformers checkpoint (which gets mean pooling, a causal one last-token pooling).
        truncate_dim: keep only so many leading dimensions of each embedding.
        options: see BaseModel and EmbeddingModel; similarity_fn_name is cosine by default.
    """

    kind: ClassVar[str] = "dense"
    model_type: ClassVar[str] = "SentenceTransformer"
    default_similarity: ClassVar[str] = "cosine"

    def __init__(
        self, model_name_or_path: str | Path | None = None, *, truncate_dim: int | None = None, **options: Unpack[EmbeddingArguments]
    ) -> None:
        super().__init__(model_name_or_path, **options)
        self.truncate_dim = truncate_dim or self.stored.truncate_dim

    # Embeddings

    def encode(
        self,
        inputs: str | Sequence[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | torch.device | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        *,
        task: str | None = None,
        sentences: str | Sequence[str] | None = None,
    ) -> Any:
        """Embeddings of texts.

        Args:
            inputs: one text (the result is one vector) or several.
            prompt_name: name of a prompt of the model.
            prompt: text put before each input; wins over prompt_name, which wins over the default prompt.
            batch_size: bounds the memory of a forward: no more tokens than so many texts of the maximum length.
            show_progress_bar: None shows it when the logger `stpipe` is at INFO or DEBUG.
            output_value: "sentence_embedding"; "token_embeddings" (a list of (tokens, D) tensors); None (a list of
                dicts with everything that the modules computed for the text).
            precision: float32, or int8, uint8, binary, ubinary (see models/quantize.py).
            convert_to_numpy: an array (N, D); False gives a list of tensors.
            convert_to_tensor: one tensor (N, D) on the device; wins over convert_to_numpy.
            device: move the model there first.
            normalize_embeddings: divide by the L2 norm, after truncation.
            truncate_dim: leading dimensions to keep; None is the model's own setting.
            task: route of the texts, for a model with a Router.
            sentences: old name of inputs.
        """
        if sentences is not None:
            renamed("sentences", "inputs")
            inputs = sentences
        texts, single = as_texts(inputs)
        check_precision(precision)
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        if device is not None:
            self.to(device)
        show = logger.isEnabledFor(logging.INFO) if show_progress_bar is None else show_progress_bar
        limit = limit_of(self.encoder.input_of(task).tokenizer)
        job = inference.Job(texts, self.resolve_prompt(prompt, prompt_name), batch_size, limit, show, task)
        dim = truncate_dim or self.truncate_dim
        with self.inference():
            if output_value == "sentence_embedding":
                to_cpu = convert_to_numpy and not convert_to_tensor
                values = inference.sentence_embeddings(self.encoder, job, dim=dim, unit_length=normalize_embeddings, to_cpu=to_cpu)
                result = as_output(values, precision, numpy=convert_to_numpy, tensor=convert_to_tensor)
            elif output_value == "token_embeddings":
                result = inference.token_embeddings(self.encoder, job)
            elif output_value is None:
                result = inference.all_features(self.encoder, job)
            else:
                raise ConfigError(unknown_name("output_value", output_value, ["sentence_embedding", "token_embeddings", "None"]))
        return result[0] if single else result

    # Truncation

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Within the context, `encode` keeps only so many leading dimensions."""
        before, self.truncate_dim = self.truncate_dim, truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    def truncate_sentence_embeddings(self, truncate_dim: int | None) -> Any:
        """Old name of truncate_embeddings."""
        renamed("truncate_sentence_embeddings", "truncate_embeddings")
        return self.truncate_embeddings(truncate_dim)

    def get_embedding_dimension(self) -> int:
        """Width of the embeddings that `encode` returns."""
        full = super().get_embedding_dimension()
        return min(self.truncate_dim, full) if self.truncate_dim else full

    def settings(self) -> Settings:
        return replace(super().settings(), truncate_dim=self.truncate_dim)


def as_output(values: Tensor, precision: str, *, numpy: bool, tensor: bool) -> Any:
    """Embeddings (N, D) in the precision and container that were asked for; tensor wins over numpy, neither is a list."""
    if precision != "float32" and len(values):
        array = quantize(values.float().cpu().numpy(), precision=precision)
        values = torch.from_numpy(array)
    if tensor:
        return values
    if not numpy:
        return list(values)
    return values.float().numpy() if values.dtype == torch.bfloat16 else values.numpy()
