"""Models that are asked and not trained: what they make of texts and pairs is kept on disk by content, so nothing is computed twice.

Shape legend: M texts, C pairs, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from stpipe.config.errors import ConfigError, Problem, UnreachableError
from stpipe.config.formats import side_of
from stpipe.core.digest import folder_digest
from stpipe.models.base_model import BaseModel
from stpipe.models.format import CROSS_ENCODER, read_settings
from stpipe.models.load import CLASSES, load_model
from stpipe.models.paths import resolve_path
from stpipe.search.embedding_cache import DENSE, SHARD, SPARSE, EmbeddingCache, Progress, Stored
from stpipe.util.mining.retriever import Scorer

Side = Literal["query", "document", "text"]
#: Shards of a cache at most, about: each is a file that stays open while its rows are read.
SHARDS = 256


@dataclass(frozen=True)
class FrozenModel:
    """A model by its place. Its weights are loaded when something has to be computed, not to find that it was.

    address: directory, `package://MODULE/SUBDIR` or Hub id; key: of the configuration that names it, for messages; cache: root of the
    embedding caches; query_prompt, document_prompt: in the place of its own; batch_size: of a forward; activation: of the scores of a
    cross-encoder, None for its own; progress: called with (what, done, total).
    """

    address: str
    key: str
    cache: Path
    device: str = "cpu"
    offline: bool = False
    revision: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    batch_size: int = 32
    activation: str | None = None
    progress: Progress | None = None

    @cached_property
    def folder(self) -> Path:
        """Where its files are.

        Raises:
            ConfigError: nowhere.
        """
        try:
            return resolve_path(self.address, offline=self.offline, revision=self.revision)
        except UnreachableError as error:
            raise UnreachableError(error.asset, error.found, key=self.key) from error
        except ConfigError as error:
            raise ConfigError([Problem(self.key, problem.message) for problem in error.problems]) from error

    @cached_property
    def identity(self) -> str:
        """Hash of all its files."""
        return folder_digest(self.folder)

    @cached_property
    def kind(self) -> str:
        """dense, sparse or cross_encoder."""
        stored = read_settings(self.folder).model_type
        if stored not in CLASSES:
            raise ConfigError(
                Problem(self.key, f"{self.address} holds a {stored}, which stpipe cannot load. It loads {', '.join(CLASSES)}")
            )
        return CLASSES[stored].kind

    @property
    def is_cross_encoder(self) -> bool:
        return self.kind == CLASSES[CROSS_ENCODER].kind

    @cached_property
    def similarity(self) -> str:
        """What compares its embeddings."""
        stored = read_settings(self.folder)
        return stored.similarity or str(getattr(CLASSES[stored.model_type], "default_similarity", "cosine"))

    @cached_property
    def model(self) -> BaseModel:
        """The model, loaded. The global random state is left alone, so that a run is the same whether its scores were cached or not."""
        with torch.random.fork_rng(devices=[]):
            return load_model(self.folder, device=self.device)

    def prompt(self, side: Side) -> str | None:
        """The prompt that was configured for texts of this side; None leaves it to the model."""
        return {"query": self.query_prompt, "document": self.document_prompt, "text": None}[side]

    def side_of(self, role: str, *, symmetric: bool) -> Side:
        """How texts of a role are encoded: where all texts are of one sort, as such, unless prompts of the sides are configured."""
        return "text" if symmetric and self.query_prompt is None and self.document_prompt is None else side_of(role)

    def way(self, side: Side) -> list[Any]:
        """What an embedding depends on besides model and text."""
        return [side, self.prompt(side)]

    def embed(self, texts: Sequence[str], side: Side) -> Stored[Any]:
        """Embeddings (M, D) of texts, as queries, as documents, or as texts that may be either; encoded now as far as the cache has none.

        Raises:
            ConfigError: the model gives none. TrainingError: they hold NaN or infinities.
        """
        if self.is_cross_encoder:
            raise ConfigError(Problem(self.key, f"{self.address} is a cross-encoder, which gives scores of pairs and no embeddings"))
        rows: Any = SPARSE if self.kind == "sparse" else DENSE
        cache = EmbeddingCache(
            self.cache / "embeddings", identity=self.identity, way=["frozen", *self.way(side)], rows=rows, shard_size=shard_size(len(texts))
        )
        return cache.embed(texts, lambda part: self._encoded(part, side), what=self._what(f"encode {side}"), progress=self.progress)

    def _encoded(self, texts: list[str], side: Side) -> Any:
        model: Any = self.model
        encode: Callable[..., Any] = {"query": model.encode_query, "document": model.encode_document, "text": model.encode}[side]
        prompt = self.prompt(side)
        options: dict[str, Any] = {
            "batch_size": self.batch_size,
            "show_progress_bar": False,
            **({} if prompt is None else {"prompt": prompt}),
        }
        with torch.random.fork_rng(devices=[]):
            if self.kind == "sparse":
                return encode(texts, convert_to_tensor=True, convert_to_sparse_tensor=True, save_to_cpu=True, **options)
            return np.asarray(encode(texts, convert_to_numpy=True, **options), dtype=np.float32)

    def scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """(C,) scores of pairs by a cross-encoder; computed now as far as the cache has none.

        Raises:
            ConfigError: it is none, or has more than one output.
        """
        prompt = self.query_prompt or ""
        way = ["pairs", self.activation, prompt, self.document_prompt]
        cache = EmbeddingCache(self.cache / "embeddings", identity=self.identity, way=way, shard_size=shard_size(len(pairs)))
        keys = [pair_key(prompt + first, (self.document_prompt or "") + second) for first, second in pairs]
        found = cache.embed(keys, self._scored, what=self._what("score pairs"), progress=self.progress)
        return np.asarray(found[:], np.float32)[:, 0] if keys else np.zeros(0, np.float32)

    def _scored(self, keys: list[str]) -> NDArray[np.float32]:
        model: Any = self.model
        if model.num_labels != 1:
            what = f"{self.address} gives {model.num_labels} values a pair; a teacher of scores has one output (num_labels 1)"
            raise ConfigError(Problem(self.key, what))
        if self.activation is not None:
            model.activation_fn = self.activation
        with torch.random.fork_rng(devices=[]):
            return Scorer(model, self.identity, self.batch_size).scores([pair_of(key) for key in keys])[:, None]

    def _what(self, doing: str) -> str:
        return f"{self.key.rpartition('.')[0] or self.key}: {doing}"


def shard_size(count: int) -> int:
    """Texts of a shard: more for very many texts, so that the files that are open at once stay few."""
    return SHARD * max(1, -(-count // (SHARD * SHARDS)))


def pair_key(first: str, second: str) -> str:
    """Two texts as one that no other two make."""
    return f"{len(first)}:{first}{second}"


def pair_of(key: str) -> tuple[str, str]:
    """The two texts of a key."""
    length, _, rest = key.partition(":")
    return rest[: int(length)], rest[int(length) :]
