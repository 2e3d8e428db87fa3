"""The `static` model: a vector a token, no network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.fields import option
from stpipe.config.registry import MODELS
from stpipe.models.component import EmbeddingComponent
from stpipe.models.format import read_modules, read_settings, stored_classes
from stpipe.models.modules import Module, Normalize, StaticEmbedding
from stpipe.models.modules.module import read_config
from stpipe.models.paths import resolve_path
from stpipe.models.sentence_transformer import SentenceTransformer
from stpipe.models.static_distillation import DIMENSIONS, SIF, distil_static
from stpipe.models.tokenizer import load_tokenizer


@MODELS.register("static")
@dataclass(frozen=True, kw_only=True)
class StaticModel(EmbeddingComponent):
    """Mean of learned token vectors: hundreds of times as fast as a transformer on a CPU, and coarser.

    name_or_path is a static model (of sentence-transformers or model2vec), which is taken as it is, or any dense model, which `start`
    turns into one. Trained from random vectors it wants much data, large batches and a learning rate near 0.2; MatryoshkaLoss suits it.
    """

    kind: ClassVar[str] = "dense"

    start: Literal["distil", "random"] = option(
        "distil",
        help="Start of a new static model: distil reads each token with the model at name_or_path, random takes its tokenizer alone.",
    )
    dimensions: int = option(DIMENSIONS, ge=1, help="Width of a new embedding; distil keeps so many principal components.")
    sif: float | None = option(SIF, gt=0, help="Distilling: weight of rare tokens over frequent ones, a / (a + p); None weighs all alike.")
    normalize: bool | None = option(None, help="End with unit length, or never. None keeps what the model stores, and does in a new one.")

    def build(self) -> SentenceTransformer:
        path = resolve_path(self.name_or_path, revision=self.revision)
        stored = read_settings(path)
        return self.inference_model(SentenceTransformer, self.stack(path), stored)

    def stack(self, path: Path) -> list[Module]:
        """The static embedding, and what follows it."""
        modules = self._stored(path) or [self._new(path), Normalize()]
        first = modules[0]
        if not isinstance(first, StaticEmbedding):
            what = f"'{self.name_or_path}' starts with {first.folder_name()}"
            raise ConfigError(Problem("model.name_or_path", f"{what}; expected a static model, or a dense one to make it from"))
        if self.max_seq_length is not None:
            first.tokenizer.model_max_length = self.max_seq_length
        if self.normalize is None:
            return modules
        return [*(m for m in modules if not isinstance(m, Normalize)), *([Normalize()] if self.normalize else [])]

    def _stored(self, path: Path) -> list[Module]:
        """The modules of a static model; none for another one."""
        if StaticEmbedding.folder_name() in stored_classes(path)[:1]:
            return read_modules(path, options=self.load_options())
        if read_config(path).get("model_type") == "model2vec":
            return [StaticEmbedding.load(path), *([Normalize()] if read_config(path).get("normalize") else [])]
        return []

    def _new(self, path: Path) -> StaticEmbedding:
        if self.start == "random":
            return StaticEmbedding(load_tokenizer(path), dimensions=self.dimensions)
        return distil_static(SentenceTransformer(str(path), device="cpu"), dimensions=self.dimensions, sif=self.sif)
