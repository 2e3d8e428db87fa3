"""Dense and sparse embeddings under one interface, so that an evaluator never asks which of them it has.

A space makes the embeddings of texts, picks rows of them and compares them; evaluators only hand them around. Dense ones
are tensors on the model's device, sparse ones are CSR matrices on the CPU, and neither is turned into the other. Both are
float64.

Shape legend: N texts, D width of an embedding (a sparse one's vocabulary); q queries and c documents of one tile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse as sp
from torch import Tensor

from stpipe.config.errors import ConfigError, TrainingError
from stpipe.evaluation.encoding import EmbeddingModel, EncodeOptions, distinct
from stpipe.models.inference import Share
from stpipe.models.team import Part, sharing
from stpipe.ops import sparse
from stpipe.ops.similarity import SIMILARITIES
from stpipe.ops.sparse import Csr
from stpipe.search import Postings
from stpipe.search.inverted_index import best_of_product
from stpipe.search.top_k import keys_of

# float64 keeps rankings independent of how the corpus was cut into chunks; accelerators without it score on the CPU.
FLOAT64_DEVICES = ("cpu", "cuda")
CPU = torch.device("cpu")

E = TypeVar("E")
Rows = slice | NDArray[np.int64]
#: (queries (q, D), depth) -> keys (q, at least depth or all) for TopK
Ranker = Callable[[E, int], Tensor]


class Space(ABC, Generic[E]):
    """The embeddings of one model. E: what holds (N, D) of them; `.shape` works on all of them."""

    def __init__(self, model: EmbeddingModel) -> None:
        self.model = model

    def embed(self, encode: Callable[..., Any], texts: Sequence[str], *, prompt: str | None, options: EncodeOptions) -> E:
        """(N, D) float64 embeddings of the texts, each distinct text encoded once.

        Args:
            encode: `encode`, `encode_query` or `encode_document` of the model.
            prompt: put before each text; None leaves the choice to the model, "" is no prompt.
            options: batch size and width.
        """
        once, places = distinct(texts)
        values = self._embedded(encode, once, prompt, options)
        return values if places is None else self.take(values, np.array(places))

    def embed_share(
        self, encode: Callable[..., Any], texts: Sequence[str], *, prompt: str | None, options: EncodeOptions, share: Share
    ) -> tuple[E, NDArray[np.int64]]:
        """The embeddings of one share of the texts (n, D), and the places of these among the texts (n,), rising.

        The arguments are those of `embed`; share: the micro-batches that this process computes, by itself.
        """
        once, places = distinct(texts)
        part = Part(share)
        with sharing(self.model, part):
            values = self._embedded(encode, once, prompt, options)
        if places is None:
            return self.take(values, part.rows), part.rows
        numbers = np.flatnonzero(np.isin(places, part.rows))
        return self.take(values, np.array(places)[numbers]), numbers

    def _embedded(self, encode: Callable[..., Any], texts: Sequence[str], prompt: str | None, options: EncodeOptions) -> E:
        common = {"prompt": prompt, "batch_size": options.batch_size, "show_progress_bar": False, "convert_to_tensor": True}
        values = self.hold(encode(texts, **common, **self.arguments(options)).detach())
        bad = self.num_bad(values)
        if bad:
            raise TrainingError(f"the model gives embeddings with NaN or infinite values for {bad} of {len(texts)} texts; it has diverged")
        return values

    @abstractmethod
    def arguments(self, options: EncodeOptions) -> Mapping[str, Any]:
        """Further arguments of `encode`; a setting of the other kind of model is an error."""

    @abstractmethod
    def hold(self, values: Tensor) -> E:
        """What the model returned, in the form that this space computes with."""

    @abstractmethod
    def num_bad(self, values: E) -> int:
        """Number of rows with NaN or infinities."""

    @abstractmethod
    def take(self, values: E, rows: Rows) -> E:
        """Some rows, by slice or by number."""

    @abstractmethod
    def dense_rows(self, values: E) -> NDArray[np.float64]:
        """The same as an array, for as many rows as fit in memory."""

    @abstractmethod
    def device(self, values: E) -> torch.device:
        """Where rankings are kept."""

    @abstractmethod
    def paired(self, name: str, a: E, b: E) -> NDArray[np.float64]:
        """(N,) similarity of row i of a and row i of b, higher = more alike."""

    @abstractmethod
    def ranker(self, name: str, docs: E, numbers: NDArray[np.int64]) -> Ranker[E]:
        """Orders `docs`, whose numbers are `numbers` (c,), for queries."""

    @abstractmethod
    def as_tensors(self, values: E) -> dict[str, Tensor]:
        """The same as tensors by name, to be sent to another process."""

    @abstractmethod
    def from_tensors(self, tensors: Mapping[str, Tensor]) -> E:
        """What `as_tensors` gave, as this process computes with it."""

    def prune(self, values: E, dims: int) -> E:
        """Only the `dims` largest entries of each row; for sparse embeddings."""
        raise ConfigError("active_dims_curve is for sparse models; remove it from this evaluator")

    def postings(self, values: E) -> Postings | None:
        """How many texts use each dimension; None where every text uses all."""
        return None


class DenseSpace(Space[Tensor]):
    """Tensors; the model's own similarity function is used where it is the one asked for."""

    def arguments(self, options: EncodeOptions) -> Mapping[str, Any]:
        if options.max_active_dims is not None:
            raise ConfigError("max_active_dims is for sparse models; use truncate_dim with a dense one")
        return {} if options.truncate_dim is None else {"truncate_dim": options.truncate_dim}

    def hold(self, values: Tensor) -> Tensor:
        values = values if values.device.type in FLOAT64_DEVICES else values.cpu()
        return values.double()

    def num_bad(self, values: Tensor) -> int:
        return int((~torch.isfinite(values).all(dim=1)).sum())

    def take(self, values: Tensor, rows: Rows) -> Tensor:
        return values[rows] if isinstance(rows, slice) else values[torch.from_numpy(rows).to(values.device)]

    def dense_rows(self, values: Tensor) -> NDArray[np.float64]:
        return values.cpu().numpy()

    def device(self, values: Tensor) -> torch.device:
        return values.device

    def paired(self, name: str, a: Tensor, b: Tensor) -> NDArray[np.float64]:
        own = name == self.model.similarity_fn_name
        return (self.model.similarity_pairwise if own else SIMILARITIES[name].paired)(a, b).cpu().numpy()

    def ranker(self, name: str, docs: Tensor, numbers: NDArray[np.int64]) -> Ranker[Tensor]:
        score = self.model.similarity if name == self.model.similarity_fn_name else SIMILARITIES[name].matrix
        places = torch.from_numpy(numbers).to(docs.device)
        return lambda queries, depth: keys_of(score(queries, docs), places)

    def as_tensors(self, values: Tensor) -> dict[str, Tensor]:
        return {"values": values}

    def from_tensors(self, tensors: Mapping[str, Tensor]) -> Tensor:
        device = getattr(self.model, "device", CPU)
        return tensors["values"].to(device if device.type in FLOAT64_DEVICES else CPU)


class SparseSpace(Space[Csr]):
    """CSR rows. Dot product and cosine find documents that share a dimension with the query, as an inverted index does."""

    def arguments(self, options: EncodeOptions) -> Mapping[str, Any]:
        if options.truncate_dim is not None:
            raise ConfigError("truncate_dim is for dense models; use max_active_dims with a sparse one")
        cut = {} if options.max_active_dims is None else {"max_active_dims": options.max_active_dims}
        return {"convert_to_sparse_tensor": True, "save_to_cpu": True, **cut}

    def hold(self, values: Tensor) -> Csr:
        return sparse.to_csr(values)

    def num_bad(self, values: Csr) -> int:
        bad = np.flatnonzero(~np.isfinite(values.data))
        return len(np.unique(np.searchsorted(values.indptr, bad, side="right")))

    def take(self, values: Csr, rows: Rows) -> Csr:
        return values[rows]

    def dense_rows(self, values: Csr) -> NDArray[np.float64]:
        return np.asarray(values.toarray())

    def device(self, values: Csr) -> torch.device:
        return CPU

    def paired(self, name: str, a: Csr, b: Csr) -> NDArray[np.float64]:
        return sparse.PAIRED[name](a, b)

    def ranker(self, name: str, docs: Csr, numbers: NDArray[np.int64]) -> Ranker[Csr]:
        if name not in PRODUCTS:
            return lambda queries, depth: keys_of(torch.from_numpy(sparse.MATRIX[name](queries, docs)), torch.from_numpy(numbers))
        prepare = PRODUCTS[name]
        lists = sp.csr_array(prepare(docs).T)
        return lambda queries, depth: torch.from_numpy(best_of_product(prepare(queries) @ lists, numbers, depth)[0])

    def as_tensors(self, values: Csr) -> dict[str, Tensor]:
        shape = torch.tensor(values.shape)
        return {"data": torch.from_numpy(values.data), "indices": torch.from_numpy(values.indices), "indptr": torch.from_numpy(values.indptr),
                "shape": shape}  # fmt: skip

    def from_tensors(self, tensors: Mapping[str, Tensor]) -> Csr:
        data, indices, indptr = (tensors[name].numpy() for name in ("data", "indices", "indptr"))
        return sp.csr_array((data, indices, indptr), shape=tuple(tensors["shape"].tolist()))

    def prune(self, values: Csr, dims: int) -> Csr:
        return sparse.keep_largest(values, dims)

    def postings(self, values: Csr) -> Postings:
        return Postings.of(values)


#: Similarity functions that are products of rows, and what is done to the rows first.
PRODUCTS: Mapping[str, Callable[[Csr], Csr]] = {"dot": lambda rows: rows, "cosine": sparse.unit_rows}
SPACES: Mapping[str, type[Space[Any]]] = {"dense": DenseSpace, "sparse": SparseSpace}


def space_of(model: EmbeddingModel) -> Space[Any]:
    """The space that the kind of model has its embeddings in."""
    if model.kind not in SPACES:
        raise ConfigError(f"{type(model).__name__} is a {model.kind} model; evaluators of embeddings take {', '.join(SPACES)} models")
    return SPACES[model.kind](model)
