"""An export in its own process, with the methods that evaluators call on a model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stpipe.export.process import Fresh, Result
from stpipe.models import CrossEncoder
from stpipe.models.base_model import BaseModel
from stpipe.models.embedding_model import EmbeddingModel
from stpipe.models.inference import keep_largest
from stpipe.models.score_activation import as_activation


def as_tensor(found: Result) -> Tensor:
    """Dense results as they are, sparse ones as a coalesced COO tensor."""
    if "values" in found and "rows" not in found:
        return torch.from_numpy(found["values"]).float()
    index = torch.from_numpy(np.stack([found["rows"], found["columns"]]).astype(np.int64))
    shape = tuple(int(n) for n in found["shape"])
    return torch.sparse_coo_tensor(index, torch.from_numpy(found["values"]).float(), shape, check_invariants=False).coalesce()


class ExportedModel:
    """What evaluators see of an export. Prompts, routes and similarity are those of the model it was made of.

    original: that model; fresh: the process of the export.
    """

    def __init__(self, original: BaseModel, fresh: Fresh) -> None:
        self.original = original
        self.fresh = fresh
        self.kind = original.kind
        self.similarity_fn_name = original.similarity_fn_name

    def run(self, inputs: Sequence[Any], *, prompt: str, task: str | None = None, batch_size: int = 32, sort: bool = True) -> Tensor:
        """Embeddings or scores of inputs."""
        given = {"inputs": list(inputs), "prompt": prompt, "task": task, "batch_size": batch_size, "sort": sort}
        return as_tensor(self.fresh.results("encode", **given))


class ExportedEmbeddings(ExportedModel):
    """An export of an embedding model."""

    def encode(
        self,
        inputs: Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        *,
        batch_size: int = 32,
        task: str | None = None,
        truncate_dim: int | None = None,
        max_active_dims: int | None = None,
        **others: Any,
    ) -> Tensor:
        """Embeddings, cut to the first dimensions or the largest weights where an evaluator asks for that."""
        found = self.run(inputs, prompt=self.original.resolve_prompt(prompt, prompt_name), task=task, batch_size=batch_size)
        if truncate_dim is not None:
            found = found[:, :truncate_dim]
        return found if max_active_dims is None else keep_largest(found.to_dense(), max_active_dims).to_sparse_coo()

    def encode_query(self, inputs: Sequence[str], prompt_name: str | None = None, prompt: str | None = None, **options: Any) -> Tensor:
        """Embeddings of queries, as EmbeddingModel.encode_query makes them."""
        if prompt is None and prompt_name is None:
            prompt = self.original.prompts.get("query", "")
        return self.encode(inputs, prompt_name, prompt, **{**self._task("query"), **options})

    def encode_document(self, inputs: Sequence[str], prompt_name: str | None = None, prompt: str | None = None, **options: Any) -> Tensor:
        """Embeddings of documents, as EmbeddingModel.encode_document makes them."""
        assert isinstance(self.original, EmbeddingModel)
        if prompt is None and prompt_name is None:
            prompt = self.original.document_prompt
        return self.encode(inputs, prompt_name, prompt, **{**self._task("document"), **options})

    def _task(self, name: str) -> Mapping[str, str]:
        return {"task": name} if name in self.original.encoder.routes else {}

    def similarity(self, a: Any, b: Any) -> Tensor:
        """(N, M) similarity of all pairs."""
        assert isinstance(self.original, EmbeddingModel)
        return self.original.similarity(a, b)

    def similarity_pairwise(self, a: Any, b: Any) -> Tensor:
        """(N,) similarity of embeddings at equal places."""
        assert isinstance(self.original, EmbeddingModel)
        return self.original.similarity_pairwise(a, b)


class ExportedScores(ExportedModel):
    """An export of a cross-encoder."""

    @property
    def num_labels(self) -> int:
        """Scores of a pair."""
        assert isinstance(self.original, CrossEncoder)
        return self.original.num_labels

    def predict(
        self,
        inputs: Sequence[Any],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        activation_fn: Any = None,
        convert_to_tensor: bool = False,
        **others: Any,
    ) -> Any:
        """Scores of pairs. The activation is part of an export, so that one that is asked for beside it comes on top; evaluators ask
        for none at all (Identity), because they only put scores in order."""
        found = self.run(inputs, prompt=self.original.resolve_prompt(prompt, prompt_name), batch_size=batch_size)
        found = found if activation_fn is None else as_activation(activation_fn)(found)
        return found if convert_to_tensor else found.numpy()


class QuantizedEmbeddings(ExportedEmbeddings):
    """Embeddings of the model itself, quantised in the other process and restored."""

    def run(self, inputs: Sequence[Any], *, prompt: str, task: str | None = None, batch_size: int = 32, sort: bool = True) -> Tensor:
        model: Any = self.original
        found = model.encode(
            list(inputs), prompt=prompt, batch_size=batch_size, show_progress_bar=False, **({} if task is None else {"task": task})
        )
        with tempfile.TemporaryDirectory(prefix="stpipe-embeddings-") as folder:
            file = Path(folder, "embeddings.npy")
            np.save(file, np.asarray(found, dtype=np.float32))
            return as_tensor(self.fresh.results("quantize", embeddings=str(file)))


def exported_model(original: BaseModel, fresh: Fresh, *, takes: str = "texts") -> ExportedModel:
    """The export as evaluators see it. takes: texts or embeddings."""
    if takes == "embeddings":
        return QuantizedEmbeddings(original, fresh)
    return (ExportedScores if isinstance(original, CrossEncoder) else ExportedEmbeddings)(original, fresh)
