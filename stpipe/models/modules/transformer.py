"""The backbone: a transformers model that turns tokens into contextual vectors, packed or padded."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from stpipe.config.errors import ConfigError
from stpipe.core.tokens import Tokens
from stpipe.models.backbone import no_progress_bars
from stpipe.models.modules.module import Features, Module
from stpipe.ops.attention import NAME as PACKED_ATTENTION
from stpipe.ops.attention import packed_attention
from stpipe.ops.dropout import use_cheap_dropout
from stpipe.ops.packing import Packing


def no_mask(*args: Any, **kwargs: Any) -> None:
    """The packed attention keeps texts apart by their lengths, so no mask is built."""


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, no_mask)

#: Packed rows in half precision on a CPU have a multiple of so many tokens (recipes/LOG.md: short texts train twice as fast).
HALF_SHAPES = 64

LAYOUTS: tuple[str, ...] = ("packed", "padded")


class Transformer(Module):
    """A transformers backbone with its tokenizer.

    layout "packed": the tokens of all texts go through as one row, so nothing is computed on padding; it needs a model
    that follows transformers' attention registry and takes position ids (models/layout.py finds out). layout "padded":
    texts are padded on the right to the longest, with a mask; works for every model. Both give the vectors (T, D) of
    the real tokens only, in the order of the tokens.
    """

    type_name = "sentence_transformers.base.modules.transformer.Transformer"
    is_input = True
    #: What the format says that the backbone is used for, and which of its outputs it hands on.
    task: ClassVar[str] = "feature-extraction"
    output_name: ClassVar[str] = "last_hidden_state"
    #: Name that the format gives to what this module adds.
    module_output_name: ClassVar[str] = "token_embeddings"
    packing_obstacle: str | None = None
    """Why texts cannot be packed whatever the attention does; None: nothing is known against it."""

    def __init__(self, model: PreTrainedModel, *, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.padded_attention: str = model.config._attn_implementation
        self.parameters_of_forward = frozenset(inspect.signature(self.network.forward).parameters)
        self.freeze_unused()
        use_cheap_dropout(model)
        self.position_offset = first_position(model)
        self._layout = "padded"

    @property
    def network(self) -> PreTrainedModel:
        """The part of the model that makes the vectors of the tokens."""
        return self.model

    def confirm_packing(self, tokens: Tokens) -> None:
        """Packing has been found exact; `tokens` are the texts that were tried. For what else has to be tried out first."""

    def freeze_unused(self) -> None:
        """A pooler is computed by the backbone but never used here: it must not look trainable."""
        pooler = getattr(self.model, "pooler", None)
        if isinstance(pooler, nn.Module):
            pooler.requires_grad_(False)

    @property
    def layout(self) -> str:
        return self._layout

    @layout.setter
    def layout(self, layout: str) -> None:
        if layout not in LAYOUTS:
            raise ConfigError(f"unknown layout '{layout}'. Known: {', '.join(LAYOUTS)}")
        if layout == "packed" and self.packing_obstacle is not None:
            raise ConfigError(f"texts cannot be packed: {self.packing_obstacle}")
        wanted = PACKED_ATTENTION if layout == "packed" else self.padded_attention
        if self.model.config._attn_implementation != wanted:
            self.model.set_attn_implementation(wanted)
        if self.model.config._attn_implementation != wanted:
            raise ConfigError(f"{type(self.model).__name__} does not use transformers' attention registry, so its texts cannot be packed")
        self._layout = layout

    def forward(self, features: Features) -> dict[str, Any]:
        """Adds token_embeddings (T, D); with `want_hidden_states` also hidden_states, one (T, D) a layer and the input first."""
        forward = self.forward_packed if self._layout == "packed" else self.forward_padded
        vectors, hidden = forward(features)
        out = {**features, "token_embeddings": vectors}
        return out if hidden is None else {**out, "hidden_states": hidden}

    def forward_packed(self, features: Features) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        inputs, _ = self.packed_inputs(features)
        out = self.network(**inputs, **self.options(features))
        hidden, count = out.get("hidden_states"), features["input_ids"].numel()
        return first_rows(self.vectors(out), count), None if hidden is None else tuple(first_rows(h, count) for h in hidden)

    def packed_inputs(self, features: Features) -> tuple[dict[str, Any], Tokens]:
        """(what a transformers model is called with, the texts in it), laid end to end in one row."""
        tokens = self.rounded(Tokens(features["input_ids"], features["lengths"], type_ids=features.get("type_ids")))
        inputs = {
            "input_ids": tokens.ids[None],
            "position_ids": (tokens.positions() + self.position_offset)[None],
            "packing": Packing.of(tokens.lengths, tokens.ids.device, windows=features.get("windows")),
        }
        if tokens.type_ids is not None and self.takes_types:
            inputs["token_type_ids"] = tokens.type_ids[None]
        return inputs, tokens

    def rounded(self, tokens: Tokens) -> Tokens:
        """The texts, in half precision on a CPU followed by texts of one token up to a round number of tokens.

        There the library compiles each product for each new shape, and without this nearly every batch has a new one.
        """
        device = tokens.ids.device.type
        missing = -tokens.num_tokens % HALF_SHAPES
        if device != "cpu" or not missing or not (torch.is_autocast_enabled(device) or self.model.dtype != torch.float32):
            return tokens
        fill = Tokens(tokens.ids.new_full((missing,), self.pad_id), tokens.lengths.new_ones(missing))
        return Tokens.cat([tokens, fill])

    def forward_padded(self, features: Features) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        inputs, mask = self.padded_inputs(features)
        out = self.network(**inputs, **self.options(features))
        hidden = out.get("hidden_states")
        return self.vectors(out)[mask], None if hidden is None else tuple(h[mask] for h in hidden)

    def padded_inputs(self, features: Features) -> tuple[dict[str, Tensor], Tensor]:
        """(what a transformers model is called with, mask (N, L) bool of the real tokens), padded on the right."""
        ids, mask = Tokens(features["input_ids"], features["lengths"]).padded(self.pad_id)
        inputs = {"input_ids": ids, "attention_mask": mask.long()}
        if features.get("type_ids") is not None and self.takes_types:
            types = torch.zeros_like(ids)
            types[mask] = features["type_ids"]
            inputs["token_type_ids"] = types
        return inputs, mask

    @property
    def takes_types(self) -> bool:
        """Whether the backbone knows segments; many do not, although their tokenizers number them."""
        return "token_type_ids" in self.parameters_of_forward

    def vectors(self, out: Any) -> Tensor:
        """The vectors of the tokens in what the backbone returned."""
        return out.last_hidden_state

    def options(self, features: Features) -> dict[str, Any]:
        return {"output_hidden_states": True} if features.get("want_hidden_states") else {}

    @property
    def pad_id(self) -> int:
        """Token that fills padding; masked, so any valid id does where the tokenizer names none."""
        pad = getattr(self.model.config, "pad_token_id", None)
        if pad is None and self.tokenizer is not None:
            pad = self.tokenizer.pad_token_id
        return pad if pad is not None else 0

    @property
    def position_limit(self) -> int | None:
        """Longest text in tokens that the positions reach; None when the architecture sets no limit."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        return None if not limit or limit < 0 else limit - self.position_offset

    @property
    def num_layers(self) -> int:
        return self.model.config.get_text_config().num_hidden_layers

    def output_dim(self, input_dim: int = 0) -> int:
        return self.model.config.get_text_config().hidden_size

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the activations of each layer in the backward: less memory, about a third slower."""
        options = {"use_reentrant": False}
        if hasattr(self.model, "activation_checkpointing_enable"):  # the name since transformers 5.2x
            self.model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        else:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)

    def config(self) -> dict[str, Any]:
        """sentence_bert_config.json; max_seq_length and do_lower_case are for versions before 5.4."""
        return {
            "transformer_task": self.task,
            "modality_config": {"text": {"method": "forward", "method_output_name": self.output_name}},
            "module_output_name": self.module_output_name,
            "max_seq_length": self.tokenizer.model_max_length if self.tokenizer.model_max_length < 10**9 else None,
            "do_lower_case": False,
        }

    def save(self, directory: Path) -> None:
        """Weights, configuration and tokenizer as transformers stores them, and sentence_bert_config.json."""
        directory.mkdir(parents=True, exist_ok=True)
        with no_progress_bars():
            self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        (directory / "sentence_bert_config.json").write_text(json.dumps(self.config(), indent=4), encoding="utf-8")

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Module:
        raise NotImplementedError("a Transformer is read by models/format.py, which also reads its weights and tokenizer")


def first_position(model: PreTrainedModel) -> int:
    """Number of the first position: RoBERTa and its kin reserve the positions up to that of the padding token."""
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Embedding) and table.padding_idx is not None:
            return table.padding_idx + 1
    return 0


def first_rows(row: Tensor, count: int) -> Tensor:
    """(1, T, D) -> (count, D), without an index where nothing is cut: its backward would fill a whole tensor."""
    vectors = row.squeeze(0)
    return vectors if vectors.shape[0] == count else vectors[:count]
