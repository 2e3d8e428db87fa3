"""A model as what mining needs of it: embeddings that are kept on disk, and a search among them.

Shape legend: N texts, D width of an embedding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from stpipe.config.errors import ConfigError, Problem
from stpipe.core.digest import digest
from stpipe.ops import sparse
from stpipe.search.embedding_cache import DENSE, SHARD, SPARSE, EmbeddingCache, Progress, Rows, Stored
from stpipe.search.exact import ExactSearch
from stpipe.search.faiss_index import FLAT, FaissSearch
from stpipe.search.nearest import Neighbours, pair_scores
from stpipe.search.sparse_search import SparseSearch

Side = Literal["query", "document"]


class Search(Protocol):
    """Any of the searches of stpipe.search."""

    def search(self, queries: Any, depth: int) -> Neighbours: ...


@dataclass(frozen=True)
class Prompt:
    """What is put before the texts of one side: a text, or the name of one of the model's prompts; neither leaves it to the model."""

    text: str | None = None
    name: str | None = None

    def arguments(self) -> dict[str, str]:
        """Those of `encode_query` and `encode_document`; a text wins over a name."""
        if self.text is not None:
            return {"prompt": self.text}
        return {} if self.name is None else {"prompt_name": self.name}


@dataclass(frozen=True)
class SearchOptions:
    """How neighbours are looked for: exactly, or by FAISS with an index of this description, so many queries at a time."""

    use_faiss: bool = False
    factory: str = FLAT
    query_chunk: int = 16_384


@dataclass(frozen=True)
class Retriever:
    """An embedding model with its prompts and its cache.

    model: anything with `encode_query`, `encode_document`, `similarity_fn_name` and `device`; identity: changes with whatever
    changes its embeddings; folder: of the embedding caches; pool: of `start_multi_process_pool`, where the model has one.
    """

    model: Any
    identity: str
    folder: Path
    query: Prompt = Prompt()
    document: Prompt = Prompt()
    batch_size: int = 32
    shard_size: int = SHARD
    pool: Any = None
    progress: Progress | None = None

    @property
    def similarity(self) -> str:
        """Its similarity function."""
        return str(getattr(self.model.similarity_fn_name, "value", self.model.similarity_fn_name) or "cosine")

    @cached_property
    def is_sparse(self) -> bool:
        """Whether its embeddings are rows over a vocabulary."""
        return getattr(self.model, "kind", "dense") == "sparse"

    def embed(self, texts: Sequence[str], side: Side) -> Stored[Any]:
        """Embeddings (N, D), encoded now as far as the cache has none."""
        prompt = self.query if side == "query" else self.document
        stored_prompts = dict(getattr(self.model, "prompts", {}) or {})
        way = [side, prompt.text, prompt.name, stored_prompts, getattr(self.model, "default_prompt_name", None)]
        rows: Rows[Any] = SPARSE if self.is_sparse else DENSE
        cache = EmbeddingCache(self.folder, identity=self.identity, way=way, rows=rows, shard_size=self.shard_size)
        return cache.embed(texts, lambda part: self._encoded(part, side, prompt), what=f"encode {side}", progress=self.progress)

    def _encoded(self, texts: list[str], side: Side, prompt: Prompt) -> Any:
        encode: Callable[..., Any] = self.model.encode_query if side == "query" else self.model.encode_document
        options: dict[str, Any] = {"batch_size": self.batch_size, "show_progress_bar": False, **prompt.arguments()}
        if self.pool is not None:
            options["pool"] = self.pool
        if self.is_sparse:
            return encode(texts, convert_to_tensor=True, convert_to_sparse_tensor=True, save_to_cpu=True, **options)
        return np.asarray(encode(texts, convert_to_numpy=True, **options), dtype=np.float32)

    def search(self, corpus: Any, options: SearchOptions) -> Search:
        """A search among embeddings of documents."""
        if self.is_sparse:
            if options.use_faiss:
                raise ConfigError(Problem("use_faiss", "FAISS holds dense vectors; a sparse model is searched by its inverted index"))
            return SparseSearch(corpus, similarity=self.similarity)
        if options.use_faiss:
            return FaissSearch(corpus, similarity=self.similarity, factory=options.factory, query_chunk=options.query_chunk)
        chunk = min(options.query_chunk, 1024)
        return ExactSearch(corpus, similarity=self.similarity, device=self.model.device, query_chunk=chunk)

    def scores(self, queries: Any, documents: Any) -> NDArray[np.float32]:
        """(p,) similarity of row i of both."""
        if self.is_sparse:
            a, b = (sparse.to_csr(rows) for rows in (queries, documents))
            return sparse.PAIRED[self.similarity](a, b).astype(np.float32)
        return pair_scores(self.similarity, queries, documents)


def weights_identity(model: torch.nn.Module) -> str:
    """Hash of all weights, of the tokenizer and of the settings that shape a result, for a model that is in memory."""
    weights = {name: _tensor_digest(tensor) for name, tensor in model.state_dict().items()}
    settings = [str(getattr(model, name, None)) for name in ("max_seq_length", "truncate_dim", "max_active_dims", "activation_fn")]
    return digest([type(model).__name__, repr(model), weights, _tokenizer_state(getattr(model, "tokenizer", None)), settings])


def _tokenizer_state(tokenizer: Any) -> Any:
    """What decides the tokens of a text; not the truncation and padding of the last call."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return type(tokenizer).__name__
    return {key: value for key, value in json.loads(backend.to_str()).items() if key not in ("truncation", "padding")}


def _tensor_digest(tensor: torch.Tensor) -> str:
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return xxhash.xxh3_128_hexdigest(values.data)


@dataclass(frozen=True)
class Scorer:
    """A cross-encoder as what mining needs of it: one score for each (query, document).

    model: anything with `predict`; identity: changes with whatever changes its scores.
    """

    model: Any
    identity: str
    batch_size: int = 32
    pool: Any = None

    def scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """(p,) scores of the pairs.

        Raises:
            ConfigError: the model has more than one output.
        """
        if not pairs:
            return np.zeros(0, np.float32)
        options: Mapping[str, Any] = {} if self.pool is None else {"pool": self.pool}
        values = np.asarray(self.model.predict(list(pairs), batch_size=self.batch_size, show_progress_bar=False, **options))
        if values.ndim > 1 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != 1:
            raise ConfigError(
                Problem("cross_encoder", f"it gives {values.shape[1]} values a pair; mining needs a model with one output (num_labels = 1)")
            )
        return values.astype(np.float32)
