"""Whether a run that was killed and continued is the run that was not: rows, learning rates and losses of each step, metrics, final weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: What is about time, not about what is computed.
TIMES = ("samples_per_second", "tokens_per_second", "input_wait_share")


@dataclass(frozen=True)
class Trace:
    """What one process logged over all attempts. steps: step -> every record of it, as often as it was computed; files: file operations by
    number, of the last attempt; evaluations: step -> forwards."""

    steps: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[int, tuple[str, str]] = field(default_factory=dict)
    evaluations: dict[int, int] = field(default_factory=dict)


def read_trace(path: Path) -> Trace:
    """The log of a process; a last line that a kill cut off is left out."""
    trace = Trace()
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if "file" in record:
            trace.files[record["file"]] = (record["operation"], record["name"])
        elif "evaluation" in record:
            trace.evaluations[record["evaluation"]] = record["forwards"]
        else:
            trace.steps.setdefault(record.pop("step"), []).append(record)
    return trace


def weights(run: Path) -> dict[str, bytes]:
    """Bytes of the trained model, by file."""
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in sorted((run / "model").rglob("*.safetensors"))}


def metrics(run: Path) -> dict[tuple[int, str, str], float]:
    """Last value of each metric at each step, without those about time."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(r["step"], r["split"], r["name"]): r["value"] for r in records if r["name"].rpartition("/")[2] not in TIMES}


def double_records(run: Path) -> list[tuple[int, str]]:
    """(step, name) of training values that are logged twice."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seen: set[tuple[int, str]] = set()
    twice = []
    for key in ((r["step"], r["name"]) for r in records if r["split"] == "train"):
        twice += [key] if key in seen else []
        seen.add(key)
    return twice


def differences(folder: Path, whole: str, cut: str, *, processes: int) -> list[str]:
    """What differs between two runs in a folder, in words; empty when they are the same."""
    found = []
    for rank in range(processes):
        one, other = (read_trace(folder / f"{run}.rank-{rank}.log").steps for run in (whole, cut))
        if one.keys() != other.keys() or not one:
            found.append(f"rank {rank}: steps {sorted(one)} and {sorted(other)}")
            continue
        for step, records in other.items():
            expected = one[step][-1]
            found += [
                f"rank {rank}, step {step}: {name} {expected[name]} and {record[name]}"
                for record in records
                for name in expected
                if record[name] != expected[name]
            ]
    one_weights, other_weights = weights(folder / whole), weights(folder / cut)
    if not one_weights or one_weights != other_weights:
        found.append(f"weights of {sorted(one_weights)}")
    one_metrics, other_metrics = metrics(folder / whole), metrics(folder / cut)
    found += [
        f"metrics.jsonl: {key} {one_metrics.get(key)} and {other_metrics.get(key)}"
        for key in sorted(one_metrics.keys() | other_metrics.keys())
        if one_metrics.get(key) != other_metrics.get(key)
    ]
    found += [f"metrics.jsonl: {key} is there twice" for key in double_records(folder / cut)]
    status = json.loads((folder / cut / "status.json").read_text())
    if (status["state"], status["exit_code"]) != ("finished", 0):
        found.append(f"status.json: {status['state']}, {status['exit_code']}")
    return found
