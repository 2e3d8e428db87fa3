"""Small random encoders and batches for engine tests."""

from __future__ import annotations

import torch
from transformers import BertConfig, BertModel

from stpipe.core.batch import Batch, Targets, TextColumn
from stpipe.core.tokens import Tokens
from stpipe.models.encoder import Encoder
from stpipe.models.modules import Normalize, Pooling, Transformer

VOCABULARY = 50


def tiny_encoder(*, layout: str = "packed", dropout: float = 0.1, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    encoder = Encoder([Transformer(BertModel(config, add_pooling_layer=False), tokenizer=None), Pooling(16), Normalize()])
    encoder.layout = layout
    return encoder.train()


def random_batch(rows: int, *, roles: tuple[str, ...] = ("anchor", "positive"), seed: int = 0, start: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    columns = {}
    for i, role in enumerate(roles):
        lengths = torch.randint(1, 20, (rows,), generator=generator)
        ids = torch.randint(0, VOCABULARY, (int(lengths.sum()),), generator=generator)
        columns[role] = TextColumn(Tokens(ids, lengths), torch.arange(rows) + 1000 * (i + 1) + start)
    return Batch(columns, Targets(score=torch.rand(rows, generator=generator)), torch.arange(start, start + rows))


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Gradients by name; parameters without one are left out."""
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], *, tolerance: float = 1e-5) -> None:
    """Equal within `tolerance` of the largest gradient of the model; empty or all-zero gradients never pass."""
    assert found.keys() == expected.keys() and expected, "no gradients to compare"
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 1e-6, "all gradients are zero"
    for name, gradient in expected.items():
        difference = float((found[name] - gradient).abs().max())
        assert difference <= tolerance * largest, f"{name}: differs by {difference:.2e}, largest gradient {largest:.2e}"
