"""Small masked-language models with random weights, as SPLADE models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMaskedLM

from stpipe.models import SparseEncoder
from stpipe.models.encoder import Encoder
from stpipe.models.modules import MaskedLanguageModel, SpladePooling
from tests.models.tiny import CONFIGS, VOCAB, make_tokenizer

MASKED = ("bert", "distilbert", "roberta", "xlm-roberta", "modernbert", "electra", "mpnet", "deberta")
DROPOUT_OFF = dict.fromkeys(
    (
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "dropout",
        "attention_dropout",
        "mlp_dropout",
        "embedding_dropout",
        "classifier_dropout",
    ),
    0.0,
)


def masked_lm(family: str = "bert", *, seed: int = 0, **changes: Any) -> Any:
    """A transformers model whose head matters: all weights are large, and the bias leaves about half of the words active."""
    config = CONFIGS[family]()
    for name, value in changes.items():
        if hasattr(config, name):
            setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForMaskedLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape)
            layer = model.get_output_embeddings()
            if layer.bias is not None:
                layer.bias -= 0.5
    return model


def make_splade(family: str = "bert", *, pooling: str = "max", activation: str = "relu", **changes: Any) -> Encoder:
    """Backbone with head and SPLADE pooling, evaluation mode."""
    backbone = MaskedLanguageModel(masked_lm(family, **changes), tokenizer=make_tokenizer())
    return Encoder([backbone, SpladePooling(pooling=pooling, activation=activation, embedding_dim=len(VOCAB))]).eval()


def splade_model(family: str = "bert", **options: Any) -> SparseEncoder:
    """The same as inference class."""
    stack = list(make_splade(family).stack)
    return SparseEncoder(modules=stack, device="cpu", **options)  # type: ignore[arg-type]


def save_checkpoint(folder: Path, family: str = "bert", *, with_head: bool = True) -> Path:
    """A bare transformers checkpoint with tokenizer."""
    model = masked_lm(family)
    (model if with_head else model.base_model).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
