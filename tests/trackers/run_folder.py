"""A run directory as a finished run leaves it, without training anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

CONFIG: dict[str, Any] = {
    "model": {"name": "dense", "name_or_path": "some/model", "revision": None},
    "trainer": {"max_steps": 4, "seed": 42},
    "optimizer": {"name": "adamw", "lr": 2e-05},
    "evaluator": {},
    "run": {"name": "a-run", "dir": "out", "tags": ["first", "second"]},
    "imports": [],
    "offline": True,
}


def line(step: int, name: str, value: float, *, split: str = "train") -> dict[str, Any]:
    return {"step": step, "epoch": step / 4, "split": split, "name": name, "value": value, "time": 1_700_000_000.0 + step}


#: What such a run has measured: series -> (step, value).
LINES = [
    line(0, "dev_ndcg@10", 0.25, split="eval"),
    *(line(step, name, value) for step in range(1, 5) for name, value in (("loss", 1 / step), ("lr", step / 1024))),
    line(4, "dev_ndcg@10", 0.5, split="eval"),
    line(4, "dev_ndcg@10", 0.5625, split="final"),
]
SERIES = {
    "eval/dev_ndcg@10": [(0, 0.25), (4, 0.5)],
    "train/loss": [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)],
    "train/lr": [(1, 1 / 1024), (2, 2 / 1024), (3, 3 / 1024), (4, 4 / 1024)],
    "final/dev_ndcg@10": [(4, 0.5625)],
}


def write_lines(folder: Path, lines: list[dict[str, Any]], *, mode: str = "a") -> None:
    with (folder / "metrics.jsonl").open(mode) as file:
        file.write("".join(json.dumps(found) + "\n" for found in lines))


def write_status(folder: Path, state: str, exit_code: int | None, error: str | None = None, *, pid: int = 0) -> None:
    (folder / "status.json").write_text(json.dumps({"state": state, "exit_code": exit_code, "error": error, "pid": pid, "stages": {}}))


def make_run(folder: Path, *, state: str = "finished", exit_code: int | None = 0, lines: list[dict[str, Any]] | None = None) -> Path:
    """Configuration, metrics, status, an evaluation and a model."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    write_lines(folder, LINES if lines is None else lines)
    write_status(folder, state, exit_code)
    (folder / "report.html").write_text("<p>a text of the data</p>")
    for name, text in {"evaluation/dev/metrics.json": "{}", "evaluation/dev/per_query.jsonl": "{}\n", "model/config.json": "{}"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "model" / "config_sentence_transformers.json").write_text(json.dumps({"model_type": "SentenceTransformer"}))
    return folder
