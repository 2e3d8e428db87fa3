"""A whole model as one graph: padded tokens -> embeddings or scores, with pooling, normalisation, SPLADE head and activation inside.

Shape legend: N texts, L tokens of the longest one, D width of a vector, V words, C scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from stpipe.config.errors import ConfigError
from stpipe.models import CrossEncoder, SentenceTransformer, SparseEncoder
from stpipe.models.base_model import BaseModel
from stpipe.models.inference import keep_largest
from stpipe.models.modules import (
    CausalLanguageModel,
    Dense,
    Dropout,
    LayerNorm,
    LogitScore,
    MaskedLanguageModel,
    Module,
    Normalize,
    Pooling,
    SequenceClassifier,
    SparseAutoEncoder,
    SparseStaticEmbedding,
    SpladePooling,
    StaticEmbedding,
    Transformer,
)
from stpipe.models.runtimes import BackboneGraph

EMBEDDING, SCORES = "sentence_embedding", "scores"
#: Modules that work on the last dimension of whatever they get, so that they need no padded form.
ELEMENTWISE = (Dense, Normalize, LayerNorm, Dropout, SparseAutoEncoder)
#: Stands for minus infinity: it survives float16, in which some forms of the graph are stored.
LOWEST = -6e4


@dataclass(frozen=True)
class Texts:
    """What a graph is called with. lengths (N,): tokens of each text; skip (N,): leading tokens that pooling leaves out."""

    ids: Tensor
    mask: Tensor
    types: Tensor | None
    skip: Tensor | None

    @property
    def lengths(self) -> Tensor:
        return self.mask.sum(1)


class WholeGraph(nn.Module):
    """The modules of one route of a model, one after the other, on padded texts. See `inputs_of` for what it takes.

    dim: first dimensions of an embedding that are kept, None all; active: largest weights of a sparse embedding that are kept, None
    all; activation: of scores.
    """

    def __init__(
        self,
        modules: tuple[Module, ...],
        *,
        dim: int | None = None,
        active: int | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        first = modules[0]
        self.parts = nn.ModuleList(modules)
        # Chosen here, because torch puts other classes in the place of modules while it records them.
        self.steps = [PADDED.get(type(module)) for module in modules]
        self.apart = isinstance(first, MaskedLanguageModel) and first.vocabulary is not None
        self.dim, self.active, self.activation = dim, active, activation
        self.backbone = BackboneGraph(first) if isinstance(first, Transformer) else None

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, prompt_lengths: Tensor | None = None
    ) -> Tensor:
        texts = Texts(input_ids, attention_mask, token_type_ids, prompt_lengths)
        features: dict[str, Any] = {"max_active_dims": self.active}
        for part, step in zip(self.parts, self.steps, strict=True):
            features = part(features) if step is None else {**features, **step(self, part, texts, features)}
        values: Tensor = features[SCORES if SCORES in features else EMBEDDING]
        if self.activation is not None:
            values = self.activation(values)
            return values.squeeze(-1) if values.shape[-1] == 1 else values
        values = values if self.dim is None else values[:, : self.dim]
        return values if self.active is None else keep_largest(values, self.active)


def token_vectors(graph: WholeGraph, part: Any, texts: Texts, features: Mapping[str, Any]) -> dict[str, Tensor]:
    """token_embeddings (N, L, D): vectors of the tokens, of a masked-language model those that the vocabulary is multiplied with."""
    types = {} if texts.types is None else {"token_type_ids": texts.types}
    return {"token_embeddings": part.vectors(part.network(input_ids=texts.ids, attention_mask=texts.mask, **types))}


def class_scores(graph: WholeGraph, part: Any, texts: Texts, features: Mapping[str, Any]) -> dict[str, Tensor]:
    """scores (N, C)."""
    assert graph.backbone is not None
    return {SCORES: graph.backbone(texts.ids, texts.mask, texts.types)}


def next_words(graph: WholeGraph, part: Any, texts: Texts, features: Mapping[str, Any]) -> dict[str, Tensor]:
    """causal_logits (N, V): of the words that may follow each text."""
    assert graph.backbone is not None
    logits = graph.backbone(texts.ids, texts.mask, texts.types)
    return {"causal_logits": at(logits, texts.lengths - 1)}


def true_or_false(graph: WholeGraph, part: Any, texts: Texts, features: Mapping[str, Any]) -> dict[str, Tensor]:
    """scores (N, 1) from the logits of two words."""
    logits = features[part.input_name]
    true = logits[:, part.true_token_id, None]
    return {SCORES: true if part.false_token_id is None else true - logits[:, part.false_token_id, None]}


def pooled(graph: WholeGraph, part: Any, texts: Texts, features: Mapping[str, Any]) -> dict[str, Tensor]:
    """sentence_embedding (N, D) of token_embeddings."""
    tokens, skip = features["token_embeddings"], texts.skip if not part.include_prompt else None
    vectors = [POOLERS[mode](tokens, texts.mask, texts.lengths, skip) for mode in part.modes]
    return {EMBEDDING: vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=-1)}


def words(graph: WholeGraph, part: Any, texts: Texts, features: Mapping[str, Any]) -> dict[str, Tensor]:
    """sentence_embedding (N, V): weights of words. For max pooling the maximum comes before bias and logarithm, which keep its order."""
    first: Any = graph.parts[0]
    tokens, real = features["token_embeddings"], texts.mask[:, :, None].bool()
    layer = first.model.get_output_embeddings() if graph.apart else None  # its head was taken apart: these are vectors, not logits
    bias = None if layer is None else layer.bias
    if part.pooling == "max":
        # Padding becomes the first token once more, which no maximum notices; to mask the logits would hold (N, L, V) twice.
        filled = torch.where(real, tokens, tokens[:, :1])
        highest = (filled if layer is None else linear(filled, layer.weight)).amax(1)
        return {EMBEDDING: word_weights(highest if bias is None else highest + bias, part.activation)}
    logits = tokens if layer is None else linear(tokens, layer.weight)
    weights = word_weights(logits if bias is None else logits + bias, part.activation)
    return {EMBEDDING: (weights * real).sum(1)}


def word_weights(logits: Tensor, activation: str) -> Tensor:
    """log1p(relu(x)), twice the logarithm for log1p_relu."""
    weights = logits.relu().log1p()
    return weights.log1p() if activation == "log1p_relu" else weights


def looked_up(graph: WholeGraph, part: Any, texts: Texts, features: Mapping[str, Any]) -> dict[str, Tensor]:
    """sentence_embedding (N, V): the weight of each word that stands in a text."""
    present = torch.zeros(texts.ids.shape[0], part.num_dimensions, dtype=part.weight.dtype, device=texts.ids.device)
    present = present.scatter_reduce(1, texts.ids, texts.mask.to(part.weight.dtype), "amax")
    found = present * part.weight
    return {EMBEDDING: found * features[EMBEDDING] if EMBEDDING in features else found}


def averaged(graph: WholeGraph, part: Any, texts: Texts, features: Mapping[str, Any]) -> dict[str, Tensor]:
    """sentence_embedding (N, D): the mean of the vectors of the tokens; zeros for a text without any."""
    return {EMBEDDING: total(part.embedding(texts.ids), texts.mask.float()) / numbers(texts.lengths, None, part.embedding.weight)}


#: Module -> what it adds to the features of padded texts.
PADDED: Mapping[type, Callable[[WholeGraph, Any, Texts, Mapping[str, Any]], dict[str, Tensor]]] = {
    Transformer: token_vectors,
    MaskedLanguageModel: token_vectors,
    SequenceClassifier: class_scores,
    CausalLanguageModel: next_words,
    LogitScore: true_or_false,
    Pooling: pooled,
    SpladePooling: words,
    SparseStaticEmbedding: looked_up,
    StaticEmbedding: averaged,
}


def at(values: Tensor, places: Tensor) -> Tensor:
    """(N, D) of values (N, L, D) at one place of each text (N,)."""
    return values.gather(1, places[:, None, None].expand(-1, 1, values.shape[-1])).squeeze(1)


def positions(mask: Tensor) -> Tensor:
    """(1, L) 0, 1, ..."""
    return torch.arange(mask.shape[1], device=mask.device)[None]


def counted(mask: Tensor, skip: Tensor | None) -> Tensor:
    """(N, L) float: 1 for the tokens that pooling looks at."""
    keep = mask if skip is None else mask * (positions(mask) >= skip[:, None])
    return keep.float()


def total(tokens: Tensor, keep: Tensor) -> Tensor:
    """(N, D) sum of the tokens with weights keep (N, L)."""
    return (tokens * keep[:, :, None].to(tokens.dtype)).sum(1)


def numbers(lengths: Tensor, skip: Tensor | None, like: Tensor) -> Tensor:
    """(N, 1) how many tokens count, at least 1."""
    left = lengths if skip is None else lengths - torch.minimum(skip, lengths)
    return left.clamp(min=1)[:, None].to(like.dtype)


def pool_mean(tokens: Tensor, mask: Tensor, lengths: Tensor, skip: Tensor | None) -> Tensor:
    return total(tokens, counted(mask, skip)) / numbers(lengths, skip, tokens)


def pool_mean_sqrt(tokens: Tensor, mask: Tensor, lengths: Tensor, skip: Tensor | None) -> Tensor:
    return total(tokens, counted(mask, skip)) / numbers(lengths, skip, tokens).sqrt()


def pool_weighted_mean(tokens: Tensor, mask: Tensor, lengths: Tensor, skip: Tensor | None) -> Tensor:
    weights = counted(mask, skip) * (positions(mask) + 1)
    return total(tokens, weights) / weights.sum(1, keepdim=True).clamp(min=1e-9).to(tokens.dtype)


def pool_max(tokens: Tensor, mask: Tensor, lengths: Tensor, skip: Tensor | None) -> Tensor:
    return torch.where(counted(mask, skip)[:, :, None].bool(), tokens, LOWEST).amax(1)


def pool_first(tokens: Tensor, mask: Tensor, lengths: Tensor, skip: Tensor | None) -> Tensor:
    if skip is None:
        return tokens[:, 0]
    return at(tokens, torch.where(skip < lengths, skip, torch.zeros_like(skip)))  # nothing after the prompt: the very first token


def pool_last(tokens: Tensor, mask: Tensor, lengths: Tensor, skip: Tensor | None) -> Tensor:
    return at(tokens, lengths - 1)


POOLERS = {
    "cls": pool_first,
    "max": pool_max,
    "mean": pool_mean,
    "mean_sqrt_len_tokens": pool_mean_sqrt,
    "weightedmean": pool_weighted_mean,
    "lasttoken": pool_last,
}


def whole_graph(model: BaseModel, route: str | None) -> tuple[WholeGraph, tuple[str, ...]]:
    """The graph of one route of a model, and the names of its inputs in order.

    Inputs are input_ids and attention_mask (N, L); token_type_ids (N, L) for pairs where the model knows segments; prompt_lengths (N,)
    where pooling leaves the prompt out.

    Raises:
        ConfigError: a module has no form for padded texts.
    """
    modules = model.encoder.path_of(route)
    foreign = [type(part).__name__ for part in modules if type(part) not in PADDED and not isinstance(part, ELEMENTWISE)]
    if foreign:
        raise ConfigError(f"{', '.join(foreign)} cannot be part of a self-contained graph; use form=st_layout, where it stays outside")
    for part in modules:
        if isinstance(part, Transformer):
            part.layout = "padded"
    inputs = ["input_ids", "attention_mask"]
    first = modules[0]
    numbers_segments = isinstance(first, Transformer) and first.takes_types and "token_type_ids" in first.tokenizer.model_input_names
    if isinstance(model, CrossEncoder) and numbers_segments:
        inputs.append("token_type_ids")
    if any(isinstance(part, Pooling) and not part.include_prompt for part in modules):
        inputs.append("prompt_lengths")
    return WholeGraph(modules, **options_of(model)).eval(), tuple(inputs)


def options_of(model: BaseModel) -> dict[str, Any]:
    """What a class does after its modules."""
    if isinstance(model, CrossEncoder):
        return {"activation": model.activation_fn}
    if isinstance(model, SparseEncoder):
        return {"active": model.max_active_dims}
    return {"dim": model.truncate_dim} if isinstance(model, SentenceTransformer) else {}
