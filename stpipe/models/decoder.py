"""A decoder that writes texts from their embeddings, with the layers and by default the weights of an encoder (TSDAE)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from stpipe.config.errors import ConfigError, Problem
from stpipe.core.tokens import Tokens
from stpipe.models.backbone import load_config, no_progress_bars, quiet
from stpipe.models.encoder import Encoder
from stpipe.models.own_code import loading, refuse_own_code
from stpipe.models.paths import resolve_path

#: Most tokens, padding included, whose words are scored at once: their logits are the largest thing in memory (125 MB of 30,522 words).
BUDGET = 1024


class VectorDecoder(nn.Module):
    """A causal language model with a cross-attention whose only key is the embedding of the text to be written.

    Texts are sorted by length and go through in parts of at most BUDGET tokens, each computed again in the backward, so memory is that of one
    part, whatever the number of texts. Inputs are padded on the right; a causal mask lets no token see what comes after it.

    Args:
        model: a transformers model with cross-attention and language-model head.
        pad_id: token to pad with.
    """

    def __init__(self, model: PreTrainedModel, *, pad_id: int) -> None:
        super().__init__()
        self.model = model
        self.pad_id = pad_id

    def forward(self, vectors: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of each text from its second token on, and number of these tokens.

        Args:
            vectors: (N, D).
            tokens: N texts.

        Returns:
            (N,) sums in at least fp32, and (N,) int64 numbers, both on the device of the vectors.
        """
        found, order = [], []
        for rows in parts(tokens.lengths):
            chosen = tokens.rows(rows)
            found.append(checkpoint(self._part, vectors[rows.to(vectors.device)], chosen, use_reentrant=False))
            order.append(rows)
        place = torch.argsort(torch.cat(order))
        return torch.cat(found)[place.to(vectors.device)], (tokens.lengths - 1).clamp(min=0).to(vectors.device)

    def _part(self, vectors: Tensor, tokens: Tokens) -> Tensor:
        ids, mask = tokens.padded(self.pad_id)
        if ids.shape[1] < 2:
            return vectors.float().sum(1) * 0
        logits = self.model(
            input_ids=ids[:, :-1],
            encoder_hidden_states=vectors[:, None].to(self.model.dtype),
            encoder_attention_mask=torch.ones_like(ids[:, :1]),
            use_cache=False,
        ).logits
        nll = F.cross_entropy(logits.float().transpose(1, 2), ids[:, 1:], reduction="none")
        return torch.where(mask[:, 1:], nll, 0).sum(1)


def parts(lengths: Tensor) -> Iterator[Tensor]:
    """Rows of each part, longest texts first: as many as fit into BUDGET when padded to the longest, at least one."""
    order = torch.argsort(lengths, descending=True, stable=True)
    start = 0
    while start < order.numel():
        count = max(BUDGET // max(int(lengths[order[start]]), 1), 1)
        yield order[start : start + count]
        start += count


def make_decoder(encoder: Encoder, path: str | None = None) -> VectorDecoder:
    """The decoder of an encoder. Weights that no checkpoint has (the cross-attention) are drawn from the global generator.

    Args:
        encoder: its embeddings are to be written from.
        path: weights of a decoder of its own; None: the weights of the encoder's backbone, which are then one with the encoder's.

    Raises:
        ConfigError: the architecture cannot write, its vectors have another width than the embeddings, or the vocabularies differ.
    """
    backbone = encoder.backbone.network
    if path is None:
        name = str(getattr(backbone.config, "_name_or_path", "") or "")
        model = causal_model(Path(name) if name and Path(name).is_dir() else None, backbone.config)
        tie(model, backbone)
    else:
        directory = resolve_path(path)
        model = causal_model(directory, load_config(directory))
    if model.config.vocab_size != backbone.config.vocab_size:
        raise ConfigError(
            Problem(
                "loss.decoder_name_or_path",
                f"the decoder has {model.config.vocab_size} words, the encoder {backbone.config.vocab_size}; they must have one vocabulary",
            )
        )
    if model.config.hidden_size != encoder.embedding_dim:
        raise ConfigError(
            Problem(
                "loss.name",
                f"'denoising_auto_encoder' writes from embeddings as wide as the decoder's vectors ({model.config.hidden_size}), but the "
                f"model's have {encoder.embedding_dim}. Train without a dense head",
            )
        )
    pad = model.config.pad_token_id
    return VectorDecoder(model, pad_id=0 if pad is None else pad)


def causal_model(directory: Path | None, config: PreTrainedConfig) -> PreTrainedModel:
    """The causal language model of a configuration with cross-attention, with the weights of a directory as far as it has them."""
    changed = copy.deepcopy(config)
    changed.is_decoder = True
    changed.add_cross_attention = True
    changed.use_cache = False
    options: dict[str, Any] = {"attn_implementation": "sdpa"}
    try:
        with no_progress_bars(), quiet():
            if directory is None:
                model = AutoModelForCausalLM.from_config(changed, **options)
            else:
                model = AutoModelForCausalLM.from_pretrained(directory, config=changed, dtype="float32", **loading(options))
    except ValueError as error:
        if directory is not None:
            refuse_own_code(directory, error)
        raise ConfigError(
            Problem(
                "loss.name", f"'denoising_auto_encoder' cannot make a decoder of a {config.model_type} model: {str(error).splitlines()[0]}"
            )
        ) from error
    if not any("cross" in name.lower() for name, _ in model.named_modules()):
        raise ConfigError(
            Problem(
                "loss.name", f"'denoising_auto_encoder' needs a model that can have cross-attention, like BERT; found {config.model_type}"
            )
        )
    return model


def tie(decoder: PreTrainedModel, backbone: PreTrainedModel) -> None:
    """Make every weight that both have one parameter, that of the backbone; the output layer follows the word embeddings.

    Raises:
        ConfigError: they have no weight in common.
    """
    shared = 0
    base = decoder.base_model
    for name, parameter in backbone.named_parameters():
        owner, _, leaf = name.rpartition(".")
        module = dict(base.named_modules()).get(owner)
        mine = getattr(module, leaf, None) if module is not None else None
        if isinstance(mine, nn.Parameter) and mine.shape == parameter.shape:
            setattr(module, leaf, parameter)
            shared += 1
    if not shared:
        raise ConfigError(
            Problem(
                "loss.tie_encoder_decoder",
                f"{type(decoder).__name__} has no weight in common with {type(backbone).__name__}; set it to false",
            )
        )
    decoder.tie_weights()
