"""The `dense` model: a backbone, a pooling and perhaps heads, one vector a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from stpipe.config.errors import ConfigError
from stpipe.config.fields import option
from stpipe.config.registry import MODELS
from stpipe.models.component import EmbeddingComponent
from stpipe.models.format import read_modules, read_settings
from stpipe.models.modules import Dense, Dropout, LayerNorm, Module, Normalize, Pooling
from stpipe.models.paths import resolve_path
from stpipe.models.sentence_transformer import SentenceTransformer

PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@dataclass(frozen=True)
class DenseHead:
    """A linear layer after the pooling."""

    out_features: int = option(ge=1, help="Width of its output.")
    activation: str = option("Tanh", help="Class of torch.nn that follows the linear layer, such as Tanh, GELU or Identity.")
    bias: bool = option(True, help="Learn a bias.")
    residual: bool = option(False, help="Add the input to the output, through a matrix of its own when the widths differ.")


@MODELS.register("dense", aliases=("SentenceTransformer",))
@dataclass(frozen=True, kw_only=True)
class DenseModel(EmbeddingComponent):
    """A dense embedding model from a sentence-transformers directory or a bare transformers checkpoint.

    Weights are float32 whatever the checkpoint holds; trainer.precision says what is computed with.
    """

    kind: ClassVar[str] = "dense"

    pooling: PoolingMode | tuple[PoolingMode, ...] | None = option(
        None,
        help="How tokens become a vector; several modes are concatenated. Replaces what the model stores after its backbone. None keeps it; a bare checkpoint gets mean, a causal one lasttoken.",
    )
    include_prompt: bool | None = option(
        None, help="False leaves the tokens of a prompt out of the pooling. None keeps what the model stores (True for a bare checkpoint)."
    )
    dense: tuple[DenseHead, ...] = option(
        help="Linear layers added after the pooling (and after those that the model stores).", factory=tuple
    )
    layer_norm: bool = option(False, help="Add a layer normalisation after the dense layers.")
    embedding_dropout: float | None = option(None, ge=0, lt=1, help="Add dropout of the embedding in training; None adds none.")
    normalize: bool | None = option(None, help="End with unit length, or never. None keeps what the model stores.")
    truncate_dim: int | None = option(None, ge=1, help="Dimensions that the saved model returns; training uses all. None returns all.")

    def build(self) -> SentenceTransformer:
        options = self.load_options()
        path = resolve_path(self.name_or_path, revision=self.revision)
        stored = read_settings(path)
        model = SentenceTransformer(
            modules=self.stack(read_modules(path, options=options)),
            device=self.start_device,
            prompts={**stored.prompts, **self.prompts},
            default_prompt_name=stored.default_prompt_name,
            similarity_fn_name=self.similarity or stored.similarity,
            truncate_dim=self.truncate_dim or stored.truncate_dim,
        )
        return self.finish(model)

    def stack(self, modules: list[Module]) -> list[Module]:
        """The modules of the model, from those that are stored."""
        backbone, heads = modules[0], modules[1:]
        if self.pooling is not None:
            heads = [Pooling(backbone.output_dim(0), mode=self.pooling)]
        normalised = self.normalize if self.normalize is not None else any(isinstance(m, Normalize) for m in heads)
        heads = [m for m in heads if not isinstance(m, Normalize)]
        poolings = [m for m in heads if isinstance(m, Pooling)]
        if self.include_prompt is not None:
            if not poolings:
                raise ConfigError("model.include_prompt: the model has no pooling; remove the key")
            for pooling in poolings:
                pooling.include_prompt = self.include_prompt
        width = 0
        for module in (backbone, *heads):
            width = module.output_dim(width)
        for head in self.dense:
            heads.append(
                Dense(width, out_features=head.out_features, bias=head.bias, activation=head.activation, use_residual=head.residual)
            )
            width = head.out_features
        if self.layer_norm:
            heads.append(LayerNorm(width))
        if self.embedding_dropout is not None:
            heads.append(Dropout(self.embedding_dropout))
        return [backbone, *heads, *([Normalize()] if normalised else [])]
