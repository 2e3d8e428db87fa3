"""What verification found, as rows for a card, a report or a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EXPORTS_FOLDER = "exports"
REJECTED = "rejected"
VERIFICATION = "verification.json"


def verification_rows(run_dir: Path) -> list[dict[str, Any]]:
    """A row for each export of a run directory, those that passed first; empty without exports. Files that cannot be read are left out.

    Keys: name, export (registered name), runtime, form, precision, passed, problems (list), path (below the run directory);
    max_abs, mean_cosine, min_cosine, spearman (None where they do not apply); texts, min_length, max_length (what was compared);
    metric, metric_model, metric_export, metric_difference, metric_low, metric_high (None without an evaluator);
    latency_1_ms, latency_32_ms, torch_latency_1_ms, torch_latency_32_ms (median of a batch of so many texts); speed_1, speed_32 (how many times as
    fast as torch);
    size_mb, model_size_mb (of weights; for quantised embeddings of a million of them); tolerance (name -> limit); processor, threads; runs_with (package -> version).
    """
    folder = Path(run_dir) / EXPORTS_FOLDER
    files = [*sorted(folder.glob(f"*/{VERIFICATION}")), *sorted((folder / REJECTED).glob(f"*/{VERIFICATION}"))]
    rows = []
    for file in files:
        if file.parent.name.startswith("."):
            continue
        try:
            rows.append(row_of(json.loads(file.read_text(encoding="utf-8")), path=file.parent.relative_to(run_dir).as_posix()))
        except (OSError, ValueError, KeyError, TypeError):  # half of an older version's file is no reason to lose a card
            continue
    return rows


def row_of(record: dict[str, Any], *, path: str) -> dict[str, Any]:
    """The row of one verification.json."""
    worst, metric = record["drift"]["overall"], record["metric"] or {}
    times, size = record["latency_ms"] or {}, record["size"]
    ratios = {n: found["torch"] / found["export"] for n, found in times.items() if found["export"]}
    return {
        **{key: record[key] for key in ("name", "export", "runtime", "form", "precision", "passed", "problems")},
        "path": path,
        **{key: worst[key] for key in ("max_abs", "mean_cosine", "min_cosine", "spearman")},
        "texts": record["drift"]["texts"],
        "min_length": record["drift"]["lengths"][0],
        "max_length": record["drift"]["lengths"][1],
        "metric": metric.get("name"),
        "metric_model": metric.get("model"),
        "metric_export": metric.get("export"),
        "metric_difference": metric.get("difference"),
        "metric_low": metric.get("low"),
        "metric_high": metric.get("high"),
        **{f"latency_{n}_ms": times.get(n, {}).get("export") for n in ("1", "32")},
        **{f"torch_latency_{n}_ms": times.get(n, {}).get("torch") for n in ("1", "32")},
        **{f"speed_{n}": ratios.get(n) for n in ("1", "32")},
        "size_mb": size["export"] / 1e6,
        "model_size_mb": size["model"] / 1e6,
        "tolerance": record["tolerance"],
        "processor": record["machine"]["processor"],
        "threads": record["machine"]["threads"],
        "runs_with": record["runs_with"],
    }
