"""A backbone with a head that makes scores of whole texts, or of pairs of texts: how the two are run apart."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stpipe.core.tokens import Tokens
from stpipe.models.modules.head import MEAN, PLACES, has_head, logits_of
from stpipe.models.modules.module import Features
from stpipe.models.modules.pooling import pool_mean
from stpipe.models.modules.transformer import Transformer, first_rows
from stpipe.ops.picked_attention import narrow_inputs

PROBE_LENGTHS = (5, 9, 14)
TOLERANCE = 1e-5
HALF_TOLERANCE = 3e-2  # as for packing: half precision rounds each layer


class HeadedTransformer(Transformer):
    """A transformers model with a head that gives something for a whole text.

    Base model and head are run apart where trying it out finds that exact: the base model packed, and the architecture's own head on the
    one vector of each text that it looks at (`pick`). Any other model is run whole on padded texts (`pick` None). `head_reason` says
    which, and why.

    Class attributes:
        picks: names of the vectors that are tried.
    """

    output_name: ClassVar[str] = "logits"
    special_tokens: ClassVar[bool] = False
    picks: ClassVar[tuple[str, ...]]

    pick: str | None = ""
    last_layer_picks: bool = False
    """Whether packed texts go through the last layer with the picked tokens only."""
    message_format: str | None = None
    """How pairs are laid out by the chat template of the tokenizer (`flat` or `structured` contents); None: as plain texts."""

    def __init__(self, model: PreTrainedModel, *, tokenizer: Any) -> None:
        if not has_head(model):
            self.pick = None
        super().__init__(model, tokenizer=tokenizer)
        self.pick, self.head_reason = find_pick(self)

    @property
    def network(self) -> PreTrainedModel:
        base: PreTrainedModel = self.model if self.pick is None else self.model.base_model
        return base

    @property
    def packing_obstacle(self) -> str | None:  # type: ignore[override]
        return self.head_reason if self.pick is None else None

    def config(self) -> dict[str, Any]:
        values = super().config()
        if self.message_format is not None:
            text = values["modality_config"]["text"]
            values["modality_config"] = {"text": text, "message": {**text, "format": self.message_format}}
        return values

    def freeze_unused(self) -> None:
        """Everything is used: a head may begin with the pooler of its base model."""

    @abstractmethod
    def of_text(self, logits: Tensor, lengths: Tensor) -> Tensor:
        """What counts (N, C) of the logits of the model for N texts of these lengths, padded on the right."""

    def forward(self, features: Features) -> dict[str, Any]:
        """Adds `picked` (N, D), the vector of each text that the head looks at, and where they were made token_embeddings (T, D)."""
        assert self.pick is not None  # whoever runs the model whole makes no vectors
        if self.last_layer_picks and self.layout == "packed" and not features.get("want_hidden_states"):
            return {**features, "picked": self.packed_picks(self.pick, features)}
        out = super().forward(features)
        return {**out, "picked": self.picked(self.pick, out)}

    def picked(self, name: str, features: Features) -> Tensor:
        """(N, D) the vector of each text that a head looks at, from the vectors of all tokens."""
        vectors: Tensor = features["token_embeddings"]
        if name == MEAN:
            return pool_mean(vectors, features["lengths"], None)
        return vectors.index_select(0, self.places(name, features["input_ids"], features["lengths"]))

    def packed_picks(self, name: str, features: Features) -> Tensor:
        """The same, where the last layer is computed for those tokens only; see ops/picked_attention.py."""
        inputs, tokens = self.packed_inputs(features)
        packing = replace(inputs["packing"], picked=self.places(name, tokens.ids, tokens.lengths))
        out = self.network(**{**inputs, "packing": packing})
        return first_rows(self.vectors(out), len(features["lengths"]))

    def places(self, name: str, ids: Tensor, lengths: Tensor) -> Tensor:
        """(N,) where the token of each text that a head looks at stands among all tokens (T,)."""
        return PLACES[name](ids, lengths, getattr(self.model.config.get_text_config(), "pad_token_id", None))

    def confirm_packing(self, tokens: Tokens) -> None:
        """Try out whether the last layer can be computed for the picked tokens only."""
        layer = last_layer(self.network)
        if self.pick not in PLACES or layer is None or self.last_layer_picks:
            return
        features = {"input_ids": tokens.ids, "lengths": tokens.lengths}
        hook = layer.register_forward_pre_hook(narrow_inputs, with_kwargs=True)
        try:
            found = self.packed_picks(self.pick, features)
        except Exception:  # a layer of another form: nothing is won there, and nothing lost
            hook.remove()
            return
        expected = self.picked(self.pick, super().forward(features))
        difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)) if found.shape == expected.shape else 1.0
        self.last_layer_picks = difference <= (TOLERANCE if expected.dtype in (torch.float32, torch.float64) else HALF_TOLERANCE)
        if not self.last_layer_picks:
            hook.remove()

    def whole(self, features: Features) -> Tensor:
        """(N, C) from the model as it is, on padded texts."""
        inputs, _ = self.padded_inputs(features)
        return self.of_text(self.model(**inputs).logits, features["lengths"])


def last_layer(network: PreTrainedModel) -> nn.Module | None:
    """The last of the layers that a backbone calls one after the other; None where they cannot be told."""
    count = network.config.get_text_config().num_hidden_layers
    found = [part for part in network.modules() if isinstance(part, nn.ModuleList) and len(part) == count]
    return found[0][-1] if len(found) == 1 else None


def find_pick(backbone: HeadedTransformer) -> tuple[str | None, str]:
    """(name of the pick by which head and base model apart give what the whole model gives, None if there is none; why)."""
    name = type(backbone.model).__name__
    if backbone.pick is None:
        return None, f"{name} has no base model apart from its head"
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            found = differences(backbone)
    except Exception as error:  # any failure of a foreign model's code means the same: run it whole
        return None, f"{name} cannot be run in two parts ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]})"
    finally:
        backbone.train(training)
    best = min(found, key=lambda pick: found[pick])
    tolerance = TOLERANCE if backbone.model.dtype in (torch.float32, torch.float64) else HALF_TOLERANCE
    if not found[best] <= tolerance:  # NaN too
        return None, f"the head of {name} needs more than one vector of each text"
    return best, f"apart: the head of {name} takes the {best} of each text (largest relative difference {found[best]:.1e})"


def differences(backbone: HeadedTransformer) -> dict[str, float]:
    """Pick -> how far the head on it is from the whole model, as a share of the largest logit."""
    tokens = probe(backbone)
    texts = [tokens.rows(torch.tensor([i])) for i in range(len(tokens))]
    whole = torch.cat([backbone.whole({"input_ids": text.ids, "lengths": text.lengths}) for text in texts])
    scale = whole.abs().max().clamp(min=1e-12)
    out = Transformer.forward(backbone, {"input_ids": tokens.ids, "lengths": tokens.lengths})
    found = {}
    for name in backbone.picks:
        logits = backbone.of_text(logits_of(backbone.model, backbone.picked(name, out)), torch.ones_like(tokens.lengths))
        found[name] = float((logits - whole).abs().max() / scale) if logits.shape == whole.shape else float("inf")
    return found


def probe(backbone: HeadedTransformer) -> Tokens:
    """Texts of random tokens, none of them the padding token, which decides which token is the last."""
    config = backbone.model.config.get_text_config()
    limit = backbone.position_limit or max(PROBE_LENGTHS)
    lengths = torch.tensor([min(length, limit) for length in PROBE_LENGTHS])
    ids = torch.randint(1, config.vocab_size, (int(lengths.sum()),), generator=torch.Generator().manual_seed(0))
    ids[ids == backbone.pad_id] = (backbone.pad_id + 1) % config.vocab_size
    return Tokens(ids.to(backbone.model.device), lengths)
