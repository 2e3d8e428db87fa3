"""Small models with random weights that score texts or pairs of texts, one for each family that must work."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import transformers as hf
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from stpipe.core.tokens import Tokens
from stpipe.models.cross_encoder import CrossEncoder
from stpipe.models.modules import SequenceClassifier
from tests.models.tiny import CONFIGS, PAD, SIZE, VOCAB, make_texts, make_tokenizer

CAUSAL_SIZE = {**SIZE, **PAD, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
FAMILIES: dict[str, Callable[[], Any]] = {
    **{name: make for name, make in CONFIGS.items() if name != "t5"},
    "modernbert-mean": lambda: with_changes(CONFIGS["modernbert"](), classifier_pooling="mean"),
    "llama": lambda: hf.LlamaConfig(**CAUSAL_SIZE),
    "albert": lambda: hf.AlbertConfig(
        **{**SIZE, "hidden_size": 32, "embedding_size": 16, "num_hidden_layers": 2}, **PAD, max_position_embeddings=64
    ),
}
WHOLE = ("albert",)  # its pooler is a layer that takes one vector, not the texts
CAUSAL: dict[str, Callable[[], Any]] = {
    "qwen3": CONFIGS["qwen3"],
    "llama": lambda: hf.LlamaConfig(**CAUSAL_SIZE, architectures=["LlamaForCausalLM"]),
    "gemma2": lambda: hf.Gemma2Config(
        **CAUSAL_SIZE, final_logit_softcapping=0.7, attn_logit_softcapping=None, sliding_window=64, architectures=["Gemma2ForCausalLM"]
    ),
    "cohere": lambda: hf.CohereConfig(
        **{k: v for k, v in CAUSAL_SIZE.items() if k != "head_dim"}, logit_scale=0.3, architectures=["CohereForCausalLM"]
    ),
}
DROPOUT = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "seq_classif_dropout": 0.0,
    "mlp_dropout": 0.0,
    "embedding_dropout": 0.0,
    "classifier_dropout": 0.0,
    "classifier_dropout_prob": 0.0,
    "pooler_dropout": 0.0,
}


def with_changes(config: Any, **changes: Any) -> Any:
    """The configuration with some attributes set, as far as it has them."""
    for name, value in changes.items():
        if hasattr(config, name):
            setattr(config, name, value)
    return config


def tokenizer_of(family: str) -> Any:
    """A tokenizer that numbers segments where the models of the family know them."""
    return make_tokenizer(types=knows_types(family))


def knows_types(family: str) -> bool:
    """Whether models of a family have embeddings of two segments."""
    return getattr(FAMILIES[family](), "type_vocab_size", 0) > 1


def random_model(auto: Any, config: Any, *, seed: int = 0) -> PreTrainedModel:
    """A model whose weights are large enough for every part of it to matter, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = auto.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def classifier(family: str, *, num_labels: int = 1, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model with a classification head."""
    config = with_changes(FAMILIES[family](), **changes)
    config.num_labels = num_labels
    return random_model(AutoModelForSequenceClassification, config, seed=seed)


def causal_lm(family: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random causal language model."""
    return random_model(AutoModelForCausalLM, with_changes(CAUSAL[family](), **changes), seed=seed)


def make_cross_encoder(family: str, *, num_labels: int = 1, **options: Any) -> CrossEncoder:
    """The inference class around a random model."""
    backbone = SequenceClassifier(classifier(family, num_labels=num_labels), tokenizer=tokenizer_of(family))
    return CrossEncoder(modules=[backbone], device="cpu", **options)


def make_pair_tokens(lengths: list[tuple[int, int]], *, seed: int = 0, types: bool = True) -> Tokens:
    """[CLS] first [SEP] second [SEP] of random words, one pair for each pair of lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids, kinds = [], []
    for a, b in lengths:
        words = torch.randint(5, len(VOCAB), (a + b,), generator=generator).tolist()
        ids.append([2, *words[:a], 3, *words[a:], 3])
        kinds.append([0] * (a + 2) + [1] * (b + 1))
    return Tokens.from_lists(ids, type_ids=kinds if types else None)


def make_pairs(count: int, *, seed: int = 0, longest: int = 30) -> list[tuple[str, str]]:
    """Pairs of sentences of random words, of very different length; some texts come several times."""
    texts = make_texts(2 * count, seed=seed, longest=longest)
    return [(texts[i - i % 3], texts[count + i]) for i in range(count)]


def one_by_one(model: PreTrainedModel, tokens: Tokens, *, types: bool) -> Tensor:
    """(N, ...) logits of the untouched model, a text at a time."""
    starts = tokens.offsets().tolist()
    rows = []
    for start, stop in pairwise(starts):
        ids = tokens.ids[None, start:stop]
        extra = {"token_type_ids": tokens.type_ids[None, start:stop]} if types and tokens.type_ids is not None else {}
        with torch.no_grad():
            rows.append(model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).logits[0])
    return torch.stack(rows)
