"""A synthetic run directory in the documented formats, for the tests of cards and reports."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

STEPS = 200
STARTED = 1_760_000_000.0


def make_run(directory: Path, *, steps: int = STEPS, queries: int = 120) -> Path:
    """Write a finished run: config, environment, status, plan, data, metrics and one retrieval evaluation."""
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config(), sort_keys=False), encoding="utf-8")
    for name, content in (("environment", environment()), ("status", status(steps)), ("plan", plan(steps)), ("data", data())):
        write_json(directory / f"{name}.json", content)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records(steps)), encoding="utf-8")
    write_evaluation(directory / "evaluation" / "dev", queries)
    return directory


def make_sparse_run(directory: Path, *, steps: int = STEPS) -> Path:
    """The same of a SPLADE model whose weights were steered, with an nDCG curve over dimensions."""
    make_run(directory, steps=steps)
    changed = {
        **config(),
        "model": {"name": "splade", "name_or_path": "sentence-transformers/all-MiniLM-L6-v2"},
        "loss": {"name": "splade", "loss": {"name": "mnrl", "similarity": "dot", "scale": 1.0}, "document_active_dims": 120},
        "evaluator": {"dev": {"name": "information_retrieval", "source": None, "active_dims_curve": [8, 32, 128]}},
    }
    changed["trainer"]["best_metric"] = "dev_dot_ndcg@10"
    (directory / "config.yaml").write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")
    start = ["calibrated: 29,505 active words a text before, 715 after, of 30,522", "start weights: 2.8% of the words active <b>"]
    write_json(directory / "plan.json", {**plan(steps), "start": start, "targets": {"document_active_dims": 120.0}})
    lines = [*records(steps), *(r for step in range(1, steps + 1) for r in sparse_records(step, steps))]
    text = "".join(json.dumps(r) + "\n" for r in lines).replace("cosine_", "dot_")
    (directory / "metrics.jsonl").write_text(text, encoding="utf-8")
    path = directory / "evaluation" / "dev" / "metrics.json"
    content = json.loads(path.read_text(encoding="utf-8").replace("cosine_", "dot_"))
    for system, width in (("before", 1400.0), ("after", 125.0)):
        content["systems"][system] |= sparse_metrics(content["systems"][system]["dot_ndcg@10"], width)
    write_json(path, content)
    return directory


def sparse_records(step: int, steps: int) -> list[dict[str, Any]]:
    """One step of what a SPLADE loss logs."""
    noise = random.Random(step)
    ramp = min(step / (0.3 * steps), 1.0)
    values = {
        "query_active_dims": 30 + 700 * 0.97**step + noise.gauss(0, 1),
        "document_active_dims": 120 + 1300 * 0.97**step + noise.gauss(0, 2),
        "query_weight": 5e-5 * ramp**2,
        "document_weight": 3e-5 * (1 + step),
        "loss/query_regularizer": 6.0 * 0.98**step,
    }
    return [record(step, steps, "train", name, value, step) for name, value in values.items()]


def sparse_metrics(ndcg: float, width: float) -> dict[str, float]:
    """What a retrieval evaluator adds for a sparse model of 30,522 words, documents `width` and queries `width` / 4 wide."""
    found = {"query_active_dims": width / 4, "query_sparsity_ratio": 1 - width / 4 / 30522, "corpus_active_dims": width}
    found |= {"corpus_sparsity_ratio": 1 - width / 30522, "avg_flops": width / 100, "flops_per_query": 10 * width}
    found |= {"posting_list_mean": width / 40, "posting_list_max": 90.0}
    for dims in (8, 32, 128):
        found |= {
            f"dot_ndcg@10_at_{dims}_dims": ndcg * (1 - 1 / dims),
            f"query_active_dims_at_{dims}_dims": min(dims, width / 4),
            f"corpus_active_dims_at_{dims}_dims": min(dims, width),
            f"avg_flops_at_{dims}_dims": min(dims, width) / 100,
        }
    return found


def write_json(path: Path, content: Any) -> None:
    """Write JSON, making the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def config() -> dict[str, Any]:
    """A resolved configuration."""
    return {
        "model": {"name": "dense", "name_or_path": "sentence-transformers/all-MiniLM-L6-v2", "pooling": None, "normalize": True},
        "loss": {"name": "matryoshka", "dims": [16, 8], "loss": {"name": "mnrl", "scale": 20.0}},
        "dataset": {"train": "stdlib://docstrings", "max_rows": 4000, "max_length": {"positive": 256}, "checks": {"overlap": "drop"}},
        "sampler": {"name": "no_duplicates"},
        "evaluator": {"dev": {"name": "information_retrieval", "source": None}},
        "optimizer": {"name": "adamw", "lr": 2e-5},
        "strategy": {"name": "recompute", "token_budget": 4096},
        "trainer": {
            "num_epochs": 1.0,
            "batch_size": 64,
            "seed": 7,
            "precision": "bf16",
            "best_metric": "dev_cosine_ndcg@10",
            "eval_steps": 0.2,
        },
        "run": {"name": "synthetic", "dir": "outputs/quick/synthetic"},
        "card": {"language": "en", "license": None, "model_name": "Docstring search", "examples": False},
        "offline": True,
    }


def environment() -> dict[str, Any]:
    """Versions, machine and fingerprints."""
    source = {
        "fingerprint": "6f2d9c01ab34",
        "rows": 4000,
        "format": "pair",
        "roles": ["anchor", "positive"],
        "source": "stdlib://docstrings",
    }
    return {
        "versions": {"stpipe": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "python": "3.11.7",
        "platform": "Linux-6.1-x86_64",
        "cpu": {"name": "A processor", "threads": 2, "count": 2},
        "devices": ["cpu"],
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "data": {"default": source},
        "created": STARTED,
    }


def status(steps: int) -> dict[str, Any]:
    """A run that ended well."""
    stages = {"prepare": 12.5, "train": 601.0, "save": 0.7, "evaluate": 40.0}
    return {
        "state": "finished",
        "exit_code": 0,
        "step": steps,
        "num_steps": steps,
        "stages": {name: {"state": "finished", "seconds": seconds} for name, seconds in stages.items()},
        "error": None,
        "warnings": ["dataset.checks.duplicate_rows: 3 rows occur more than once"],
        "started": STARTED,
        "finished": STARTED + 660,
        "command": "stpipe train +recipe=dense_quickstart +profile=offline trainer.seed=7",
        "resumed": [],
    }


def plan(steps: int) -> dict[str, Any]:
    """The plan of the run."""
    return {
        "strategy": "recompute",
        "layout": "packed",
        "layout_reason": "packed and single forward agree to 3e-07",
        "global_batch": 64,
        "negatives_per_anchor": 63,
        "steps": steps,
        "tokens_per_step": 6100,
        "strategy_reasons": ["recompute: activations of the longest batch (6,100 tokens) need about 9.1 GB, 4.0 GB may be used"],
        "micro_batches_per_step": 3.5,
        "padding_share": 0.0,
        "pool_bytes": 196_608,
        "trainable_parameters": 22_713_216,
        "total_parameters": 22_713_216,
        "warnings": [],
    }


def data() -> dict[str, Any]:
    """The scan of the data, as stpipe.data.report.ScanReport.as_dict() writes it."""
    message = "duplicate_rows: 3 rows occur more than once"
    finding = {"rule": "duplicate_rows", "action": "warn", "rows": 3, "message": message, "examples": ["row 17: 'Return <b>x</b>.'"]}
    return {
        "sources": {"default": {"train": split(4000, [finding]), "eval": split(1000, [])}},
        "warnings": [f"default (train): {message}"],
    }


def split(rows: int, findings: list[dict[str, Any]]) -> dict[str, Any]:
    """One split."""
    return {
        "source": "stdlib://docstrings",
        "fingerprint": "6f2d9c01ab34",
        "format": "pair",
        "columns": {"anchor": "anchor", "positive": "positive"},
        "roles_from": "names",
        "unused_columns": ["module"],
        "rows_read": rows + 12,
        "rows": rows,
        "roles": {"anchor": role(rows, "query: ", 14.0, None), "positive": role(rows, "", 75.0, 256)},
        "label": None,
        "groups": {},
        "findings": findings,
    }


def role(texts: int, prompt: str, median: float, limit: int | None) -> dict[str, Any]:
    """Statistics of one role."""
    tokens = {"mean": 1.2 * median, "p50": median, "p95": 3 * median, "max": 9 * median}
    return {
        "texts": texts,
        "distinct": texts - 3,
        "prompt": prompt,
        "max_length": limit,
        "tokens": tokens,
        "truncated_share": 0.07 if limit else 0.0,
    }


def records(steps: int) -> list[dict[str, Any]]:
    """metrics.jsonl: a noisy falling loss, rates, an evaluation at step 0 and five more, the best one at 4/5."""
    noise = random.Random(5)
    found = []
    for i, step in enumerate(range(1, steps + 1)):
        values = {
            "loss": 0.4 + 2.2 / (1 + step / 25) + noise.gauss(0, 0.06),
            "loss/16": 0.2 + 1.1 / (1 + step / 25),
            "grad_norm": 1.5 + noise.random(),
            "lr": 2e-5 * min(step / (0.1 * steps), (steps - step) / (0.9 * steps)),
            "samples_per_second": 11 + noise.gauss(0, 0.4),
            "tokens_per_second": 1050 + noise.gauss(0, 40),
            "padding_share": 0.02 + 0.01 * noise.random(),
            "input_wait_share": 0.004 + 0.002 * noise.random(),
        }
        found += [record(step, steps, "train", name, value, i) for name, value in values.items()]
    for i, ndcg in enumerate((0.512, 0.552, 0.571, 0.578, 0.583, 0.581)):
        step = i * steps // 5
        found.append(record(step, steps, "eval", "dev_cosine_ndcg@10", ndcg, step))
        found.append(record(step, steps, "eval", "dev_cosine_mrr@10", ndcg - 0.03, step))
    return found


def record(step: int, steps: int, split: str, name: str, value: float, seconds: float) -> dict[str, Any]:
    """One line."""
    return {"step": step, "epoch": round(step / steps, 6), "split": split, "name": name, "value": value, "time": STARTED + seconds}


def write_evaluation(directory: Path, queries: int) -> None:
    """metrics.json and per_query.jsonl of a retrieval evaluation; the first query tries to break out of the page."""
    noise = random.Random(3)
    lines = []
    for i in range(queries):
        before = round(noise.random(), 4)
        after = min(1.0, max(0.0, round(before + noise.gauss(0.07, 0.15), 4))) if i % 4 else before
        scores = {"before": before, "after": after, "bm25": round(noise.random(), 4)}
        text = (
            "</script><script>alert('&')</script> <img src=http://example.com/x.png>"
            if i == 0
            else f"What does function number {i} return when its input is empty?"
        )
        if i == 1:
            text, scores = text + " And then, " * 60, {"before": 0.0, "after": 1.0, "bm25": 0.5}
        if i == 0:
            scores = {"before": 0.05, "after": 0.99, "bm25": 0.2}
        systems = {s: {"ndcg@10": v, "rank": None if v < 0.1 else 1 + int(9 * (1 - v))} for s, v in scores.items()}
        lines.append({"query_id": f"q{i}", "query": text, "systems": systems})
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "per_query.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    means = {s: sum(line["systems"][s]["ndcg@10"] for line in lines) / queries for s in ("before", "after", "bm25")}
    systems = {s: {"cosine_accuracy@1": m * 0.8, "cosine_mrr@10": m * 0.95, "cosine_ndcg@10": m} for s, m in means.items()}
    metric = "cosine_ndcg@10"
    differences = {
        f"after-{other}": {"metric": metric, "mean": (d := means["after"] - means[other]), "low": d - 0.02, "high": d + 0.021, "p": 0.0004}
        for other in ("before", "bm25")
    }
    content = {
        "evaluator": "information_retrieval",
        "primary": metric,
        "num_queries": queries,
        "systems": systems,
        "differences": differences,
    }
    write_json(directory / "metrics.json", content)
