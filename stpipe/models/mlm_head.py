"""Masked-language-model heads: a fresh one for an encoder that has none, and the calibration that makes any of them sparse."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stpipe.config.errors import ConfigError
from stpipe.core.tokens import Tokens
from stpipe.models.modules.masked_lm import MaskedLanguageModel
from stpipe.ops.splade_tiles import Products, max_logits, tiles

#: GELU and its kin are the identity far enough above zero; the layer norm behind them takes the shift out again.
SHIFT = 8.0
WORDS = 4096  # whose quantiles are taken at once


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibration did. scale: factor of the logits; active_before, active_after: mean words with a weight above zero
    in the texts of the sample; vocabulary: number of words."""

    scale: float
    active_before: float
    active_after: float
    vocabulary: int

    def line(self) -> str:
        """The same in one line."""
        return (
            f"calibrated: {self.active_before:,.0f} active words a text before, {self.active_after:,.0f} after, of {self.vocabulary:,}; "
            f"logits scaled by {self.scale:.3g}"
        )


def head_parameters(model: PreTrainedModel) -> list[tuple[str, nn.Parameter]]:
    """Name and parameter of everything behind the base model, but for the vocabulary's weight, which is tied to the embeddings."""
    base = {id(p) for p in model.base_model.parameters()}
    return [(name, p) for name, p in model.named_parameters() if id(p) not in base]


def reset_head(model: PreTrainedModel) -> None:
    """Give a model whose checkpoint has no head one that passes the encoder's vectors on.

    Square matrices become the identity with a bias that keeps the activation in its linear part, layer norms one and zero, the
    vocabulary is tied to the word embeddings and its bias is zero. Logits are then the products of each token's normalised
    vector with the word embeddings. Without `calibrate_head` nearly every word is active.
    """
    layer = model.get_output_embeddings()
    words = model.get_input_embeddings()
    if layer is None or layer.weight is not words.weight:
        raise ConfigError(
            f"{type(model).__name__} has no head, and one cannot be tied to its word embeddings. Start from a checkpoint with a "
            "masked-language-model head"
        )
    with torch.no_grad():
        for name, parameter in head_parameters(model):
            if parameter.ndim == 2 and parameter.shape[0] != parameter.shape[1]:
                raise ConfigError(f"{type(model).__name__} has no head, and its {name} {tuple(parameter.shape)} cannot be made an identity")
            owner = model.get_submodule(name.rpartition(".")[0])
            if parameter.ndim == 2 and getattr(owner, "bias", None) is None:
                raise ConfigError(
                    f"{type(model).__name__} has no head, and one cannot be made: its {name} has no bias that would keep the activation linear"
                )
            if parameter.ndim == 2:
                nn.init.eye_(parameter)
            elif parameter.numel() != layer.out_features:
                parameter.fill_(SHIFT if isinstance(owner, nn.Linear) else float(name.endswith("weight")))
            else:
                parameter.zero_()


def calibrate_head(backbone: MaskedLanguageModel, texts: Iterable[Tokens], *, active_share: float, rescale: bool) -> Calibration:
    """Set the bias of each word so that it is active in a share of the texts, from which training can start.

        b_v = -quantile over texts n of max over tokens t of logit_ntv at 1 - active_share

    Without it a head that is tied to word embeddings starts with every word active in every text, at a loss in the
    thousands. With `rescale` the logits first get standard deviation 1, through the last layer norm of the head.

    Args:
        backbone: model with a head; its parameters are changed.
        texts: the sample, each element some texts of one forward.
        active_share: share of the sample in which each word is active, 0 < share < 1.
        rescale: for a fresh head; one that was trained keeps its scale.
    """
    vocabulary = backbone.vocabulary
    if vocabulary is None or vocabulary.bias is None:
        raise ConfigError(f"model.calibrate: the head of this model cannot be calibrated ({backbone.head_reason}; it needs a bias a word)")
    parts = list(texts)
    training = backbone.training
    backbone.eval()
    with torch.no_grad():
        scale = _rescale(backbone, parts) if rescale else 1.0
        highest = _highest(backbone, parts)
        before = float((highest > -vocabulary.bias).sum(1).float().mean())
        threshold = torch.cat([torch.quantile(part, 1 - active_share, dim=0) for part in highest.split(WORDS, dim=1)])
        vocabulary.bias.copy_(-threshold)
        after = float((highest > threshold).sum(1).float().mean())
    backbone.train(training)
    return Calibration(scale, before, after, vocabulary.weight.shape[0])


def _vectors(backbone: MaskedLanguageModel, tokens: Tokens) -> Tensor:
    values: Tensor = backbone({"input_ids": tokens.ids, "lengths": tokens.lengths})["token_embeddings"]
    return values


def _highest(backbone: MaskedLanguageModel, parts: Sequence[Tokens]) -> Tensor:
    """(N, V) largest logit of each word over the tokens of each text, without the bias."""
    assert backbone.vocabulary is not None
    weight = backbone.vocabulary.weight
    rows = []
    for tokens in parts:
        vectors = _vectors(backbone, tokens)
        rows.append(max_logits(vectors, weight, tokens.lengths, Products.of(vectors, weight)))
    return torch.cat(rows)


def _rescale(backbone: MaskedLanguageModel, parts: Sequence[Tokens]) -> float:
    """Bring the logits of the first texts to standard deviation 1; returns the factor."""
    assert backbone.vocabulary is not None
    norms = [m for m in backbone.model.modules() if isinstance(m, nn.LayerNorm) and not _belongs(m, backbone.model.base_model)]
    if not norms:
        raise ConfigError(f"model.calibrate: {type(backbone.model).__name__} has no layer norm in its head, so its logits cannot be scaled")
    factor = 1.0 / max(_deviation(_vectors(backbone, parts[0]), backbone.vocabulary.weight, parts[0].lengths), 1e-12)
    for parameter in norms[-1].parameters():
        parameter.mul_(factor)
    return factor


def _deviation(vectors: Tensor, weight: Tensor, lengths: Tensor) -> float:
    """Standard deviation of all logits of vectors (T, D) and weight (V, D), which are never held at once."""
    total = square = torch.zeros((), dtype=torch.float64)
    for _, _, _, tile in tiles(vectors, weight, lengths, Products.of(vectors, weight)):
        logits = tile.double()
        total, square = total + logits.sum().cpu(), square + logits.square().sum().cpu()
    count = vectors.shape[0] * weight.shape[0]
    return float(((square - total.square() / count) / (count - 1)).clamp(min=0).sqrt())


def _belongs(module: nn.Module, whole: nn.Module) -> bool:
    return any(module is part for part in whole.modules())
