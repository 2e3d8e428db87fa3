"""Time, peak memory and gradients of the ways to compute a large contrastive batch, in one run.

    python scripts/bench_strategies.py --layers 6 24

Compares `plain`, `recompute` (checkpoint per micro-batch, one graph) and `two_pass` (GradCache: representations without
gradient, gradient of the loss on them, second forward with a surrogate). The last one is written out here, to
decide whether the engine needs it. Peak memory is the process's high-water mark above its state before, so each
measurement runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from transformers import BertConfig, BertModel

from stpipe.core.batch import Batch, Targets, TextColumn
from stpipe.core.context import StepContext
from stpipe.core.reps import Column, Rep, RepBatch
from stpipe.core.tokens import Tokens
from stpipe.engine.strategies import Plain, Recompute, seeded_forward
from stpipe.engine.train_module import TrainModule
from stpipe.losses import MultipleNegativesRankingLoss
from stpipe.models.encoder import Encoder
from stpipe.models.modules import Normalize, Pooling, Transformer

VOCABULARY = 1000


def make_encoder(layers: int, width: int) -> Encoder:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 32, intermediate_size=4 * width
    )
    encoder = Encoder([Transformer(BertModel(config, add_pooling_layer=False), tokenizer=None), Pooling(width), Normalize()])
    encoder.layout = "packed"
    return encoder.train()


def make_batch(rows: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def column(low: int, high: int, first: int) -> TextColumn:
        lengths = torch.randint(low, high, (rows,), generator=generator)
        return TextColumn(
            Tokens(torch.randint(0, VOCABULARY, (int(lengths.sum()),), generator=generator), lengths), torch.arange(first, first + rows)
        )

    return Batch({"anchor": column(6, 24, 0), "positive": column(20, 200, rows)}, Targets(), torch.arange(rows))


def two_pass(encoder: Encoder, batch: Batch, loss: MultipleNegativesRankingLoss, ctx: StepContext, budget: int) -> torch.Tensor:
    """GradCache on the same micro-batches and seeds as the strategies; returns the loss."""
    tokens = Tokens.cat([c.tokens for c in batch.columns.values()])
    parts = Plain(token_budget=budget).plan(tokens.lengths, layout=encoder.layout, device_type="cpu")
    order = torch.cat(parts)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.numel())
    with torch.no_grad():
        reps = [seeded_forward(encoder, tokens.rows(p), frozenset(), ctx.forward_seed(i)).values for i, p in enumerate(parts)]
    leaf = torch.cat(reps)[inverse].requires_grad_()
    columns, start = {}, 0
    for role, column in batch.columns.items():
        rep = Rep(leaf[start : start + len(batch)])
        columns[role] = Column(rep, rep, column.text_id)
        start += len(batch)
    value = loss(RepBatch(columns, batch.row, batch.row), ctx).mean
    value.backward()
    for i, part in enumerate(parts):
        again = seeded_forward(encoder, tokens.rows(part), frozenset(), ctx.forward_seed(i)).values
        (again * leaf.grad[part]).sum().backward()
    return value.detach()


def measure(name: str, layers: int, width: int, rows: int, budget: int, steps: int) -> dict[str, float]:
    encoder, loss = make_encoder(layers, width), MultipleNegativesRankingLoss()
    seconds = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for step in range(steps):
        batch, ctx = make_batch(rows, step), StepContext(step=step)
        began = time.perf_counter()
        if name == "two_pass":
            value = two_pass(encoder, batch, loss, ctx, budget)
        else:
            strategy = {"plain": Plain, "recompute": Recompute}[name](token_budget=budget)
            value = TrainModule(encoder, {"default": loss}, strategy)(batch, ctx).mean
            value.backward()
        seconds.append(time.perf_counter() - began)
        norm = torch.nn.utils.get_total_norm([p.grad for p in encoder.parameters()])
        encoder.zero_grad(set_to_none=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": min(seconds[1:]), "peak_mib": peak / 1024, "loss": float(value), "gradient_norm": float(norm)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 24])
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--token-budget", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--only", choices=["plain", "recompute", "two_pass"], help="measure one, as JSON (used by the run itself)")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args.layers[0], args.width, args.rows, args.token_budget, args.steps)))
        return 0
    for layers in args.layers:
        for name in ("plain", "recompute", "two_pass"):
            shared = ["--width", args.width, "--rows", args.rows, "--token-budget", args.token_budget, "--steps", args.steps]
            command = [sys.executable, __file__, "--only", name, "--layers", layers, *shared]
            found = json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout)
            print(f"{layers} layers, {name}: " + ", ".join(f"{key} {value:.6g}" for key, value in found.items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
