"""Small random encoders and batches for engine tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from transformers import BertConfig, BertModel

from stpipe.core.batch import Batch, Targets, TextColumn
from stpipe.core.context import StepContext
from stpipe.core.tokens import Tokens
from stpipe.engine.accumulation import Accumulation
from stpipe.engine.backends import Runtime, Single
from stpipe.models.encoder import Encoder
from stpipe.models.modules import Dense, Normalize, Pooling, Transformer

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


def pair_batch(counts: list[int], *, labels: bool = True, seed: int = 0) -> Batch:
    """Rows of a query with so many candidates, each pair one text; labels: a grade for each candidate."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    lengths = torch.randint(3, 20, (total,), generator=generator)
    ids = torch.randint(0, VOCABULARY, (int(lengths.sum()),), generator=generator)
    column = TextColumn(Tokens(ids, lengths), torch.arange(total), torch.tensor(counts))
    scores = torch.full((len(counts), max(counts)), torch.nan)
    for row, count in enumerate(counts):
        scores[row, :count] = torch.randint(0, 3, (count,), generator=generator).float()
    return Batch({"pair": column}, Targets(scores=scores if labels else None), torch.arange(len(counts)))


def scorer(*, layout: str = "packed", dropout: float = 0.1, seed: int = 0) -> Encoder:
    """A cross-encoder: one score for each text."""
    encoder = tiny_encoder(layout=layout, dropout=dropout, seed=seed)
    stack = [encoder.stack[0], encoder.stack[1], Dense(16, out_features=1, activation="torch.nn.modules.linear.Identity")]
    found = Encoder(stack)  # type: ignore[arg-type]
    found.layout = layout
    return found.train()


R = TypeVar("R", bound=Runtime)


def started(module: torch.nn.Module, kind: type[R] = Runtime) -> R:  # type: ignore[assignment]
    """A single process on the CPU that trains the module."""
    runtime = kind(Single().build(device="cpu", precision="fp32").accelerator)
    runtime.prepare(module, torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.0))
    return runtime


def step_gradients(runtime: Runtime, batches: Sequence[Batch], ctx: StepContext) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one optimiser step over some batches, as Trainer takes it. The gradients stay on the parameters."""
    module = runtime.unwrapped
    module.zero_grad(set_to_none=True)
    accumulation, outputs = Accumulation(runtime), []
    for i, batch in enumerate(batches):
        strategy, place = module.strategies[batch.source], replace(ctx, micro=i)
        outputs.append(strategy.run(accumulation, batch, place, last=i == len(batches) - 1).detach())
    loss = sum(float(o.sum) for o in outputs) / sum(float(o.count) for o in outputs)
    for parameter in module.parameters():
        if parameter.grad is not None and accumulation.rescale is not None:
            parameter.grad *= accumulation.rescale
    return loss, gradients(module)


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
