"""Small backbones with random weights, one for each family that must work, and a tokenizer made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from stpipe.core.tokens import Tokens
from stpipe.models.backbone import random_backbone
from stpipe.models.encoder import Encoder
from stpipe.models.modules import Module, Normalize, Pooling, Transformer

WORDS = [f"w{i}" for i in range(90)] + ["a", "b", "query", "document", ":", "."]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB = {token: i for i, token in enumerate(SPECIAL + WORDS)}
SIZE = {"vocab_size": len(VOCAB), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
PAD = {"pad_token_id": 0}

CONFIGS: dict[str, Callable[[], Any]] = {
    "bert": lambda: hf.BertConfig(**SIZE, **PAD, max_position_embeddings=64),
    "distilbert": lambda: hf.DistilBertConfig(
        vocab_size=len(VOCAB), dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=64, **PAD
    ),
    "roberta": lambda: hf.RobertaConfig(**SIZE, **PAD, max_position_embeddings=66, type_vocab_size=1),
    "xlm-roberta": lambda: hf.XLMRobertaConfig(**SIZE, pad_token_id=1, max_position_embeddings=66, type_vocab_size=1),
    "modernbert": lambda: hf.ModernBertConfig(
        **SIZE,
        **PAD,
        max_position_embeddings=64,
        local_attention=8,
        global_attn_every_n_layers=2,
        attention_dropout=0.1,
        mlp_dropout=0.1,
        embedding_dropout=0.1,
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
    ),
    "electra": lambda: hf.ElectraConfig(**SIZE, **PAD, max_position_embeddings=64, embedding_size=16),
    "mpnet": lambda: hf.MPNetConfig(**SIZE, pad_token_id=1, max_position_embeddings=66),
    "deberta": lambda: hf.DebertaV2Config(
        **SIZE,
        **PAD,
        max_position_embeddings=64,
        relative_attention=True,
        position_buckets=16,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
    ),
    "t5": lambda: hf.T5Config(
        vocab_size=len(VOCAB), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=3, dropout_rate=0.1
    ),
    "qwen3": lambda: hf.Qwen3Config(
        **SIZE,
        **PAD,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        attention_dropout=0.1,
        architectures=["Qwen3ForCausalLM"],
    ),
    "mistral": lambda: hf.MistralConfig(
        **SIZE, **PAD, num_key_value_heads=2, head_dim=8, max_position_embeddings=64, sliding_window=8, architectures=["MistralForCausalLM"]
    ),
}
PACKED = ("bert", "distilbert", "roberta", "xlm-roberta", "modernbert", "electra", "qwen3", "mistral")
PADDED = ("mpnet", "deberta", "t5")


def make_tokenizer(*, max_length: int = 62, types: bool = False) -> Any:
    """A word-level tokenizer with [CLS] and [SEP]; with types it numbers the segments of pairs."""
    backend = Tokenizer(models.WordLevel(VOCAB, unk_token="[UNK]"))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    inputs = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=max_length, model_input_names=inputs, **names)


def make_backbone(family: str, *, seed: int = 0, **changes: Any) -> Transformer:
    """A random backbone whose weights are large enough for every part of it to matter, in evaluation mode."""
    config = CONFIGS[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    model = random_backbone(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return Transformer(model.eval(), tokenizer=make_tokenizer())


def make_encoder(family: str, *, mode: str = "mean", heads: tuple[Module, ...] = (), **changes: Any) -> Encoder:
    """Backbone, pooling, further heads, unit length; evaluation mode."""
    backbone = make_backbone(family, **changes)
    return Encoder([backbone, Pooling(backbone.output_dim(0), mode=mode), *heads, Normalize()]).eval()


def make_tokens(lengths: list[int], *, seed: int = 0, prompts: list[int] | None = None) -> Tokens:
    """Random words between [CLS] and [SEP], one text a length (at least 3 tokens)."""
    generator = torch.Generator().manual_seed(seed)
    inner = [torch.randint(5, len(VOCAB), (n - 2,), generator=generator).tolist() for n in lengths]
    return Tokens.from_lists([[2, *ids, 3] for ids in inner], prompt_lengths=prompts)


def make_texts(count: int, *, seed: int = 0, longest: int = 30) -> list[str]:
    """Sentences of random words, of very different length."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, longest, (count,), generator=generator).tolist()
    return [" ".join(WORDS[i] for i in torch.randint(0, 90, (n,), generator=generator).tolist()) for n in sizes]
