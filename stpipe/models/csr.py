"""The `csr` model: a dense model whose embedding becomes a few of many learned features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.fields import option
from stpipe.config.registry import MODELS
from stpipe.models.component import EmbeddingComponent
from stpipe.models.format import read_modules, read_settings
from stpipe.models.modules import Module, SparseAutoEncoder, SparseStaticEmbedding, SpladePooling
from stpipe.models.paths import resolve_path
from stpipe.models.sparse_encoder import SparseEncoder
from stpipe.models.sparse_stack import width_of


@MODELS.register("csr")
@dataclass(frozen=True, kw_only=True)
class CSRModel(EmbeddingComponent):
    """Contrastive sparse representation (arXiv:2503.01776): a sparse autoencoder on a dense embedding model.

    name_or_path is a dense model, which gets a new autoencoder, or a model of this kind. Embeddings have `hidden_dim`
    dimensions, `k` of them active.
    """

    kind: ClassVar[str] = "sparse"
    sparsity: ClassVar[str | None] = "autoencoder"

    hidden_dim: int | None = option(None, ge=1, help="Features of the autoencoder; None is four times the width of the embedding.")
    k: int | None = option(None, ge=1, help="Features active in a text; None is a quarter of the width of the embedding.")
    k_aux: int | None = option(
        None, ge=0, help="Dead features that learn from what the others leave over; None is half the width of the embedding, 0 none."
    )
    dead_threshold: int = option(30, ge=1, help="Steps without being active after which a feature counts as dead.")
    freeze_encoder: bool = option(False, help="Train the autoencoder only; the dense model stays as it is, and is without dropout.")

    def build(self) -> SparseEncoder:
        path = resolve_path(self.name_or_path, revision=self.revision)
        modules = read_modules(path, options=self.load_options())
        if isinstance(modules[-1], SparseAutoEncoder):
            self._agree(modules[-1])
        else:
            self._only_dense(modules)
            width = width_of(modules)
            modules.append(
                SparseAutoEncoder(
                    width,
                    hidden_dim=self.hidden_dim or 4 * width,
                    k=self.k or max(1, width // 4),
                    k_aux=width // 2 if self.k_aux is None else self.k_aux,
                    dead_threshold=self.dead_threshold,
                )
            )
        if self.freeze_encoder:
            for module in modules[:-1]:
                module.fix()
        return self.inference_model(SparseEncoder, modules, read_settings(path))

    def _agree(self, stored: SparseAutoEncoder) -> None:
        """Keys that say something else than the autoencoder that the start weights bring would have no effect."""
        asked = {"hidden_dim": self.hidden_dim, "k": self.k, "k_aux": self.k_aux}
        problems = [
            Problem(
                f"model.{name}",
                f"is {value}, but the autoencoder of '{self.name_or_path}' has {getattr(stored, name)}. Remove the key, or start from a dense model",
            )
            for name, value in asked.items()
            if value is not None and value != getattr(stored, name)
        ]
        if problems:
            raise ConfigError(problems)

    def _only_dense(self, modules: list[Module]) -> None:
        """An autoencoder on the words of a vocabulary would have billions of weights, and nothing to make sparse."""
        lexical = [p.folder_name() for m in modules for p in m.modules() if isinstance(p, (SpladePooling, SparseStaticEmbedding))]
        if lexical:
            what = f"'{self.name_or_path}' is a sparse model of words ({lexical[0]}). Name a dense model, or use model=splade"
            raise ConfigError(Problem("model.name_or_path", what))
