"""Do several processes take the optimiser step of one? Every loss, number of hard negatives, strategy, backend, number of processes and
accumulation, measured, or refused by `validate`.

    python scripts/equivalence.py                       everything (under 90 minutes on two cores)
    python scripts/equivalence.py --resume              the same, without what an interrupted run of the same sources has measured
    python scripts/equivalence.py --processes 2 --backends ddp fsdp2 --tasks mnrl cosent --no-write

Each cell is one step in fp32 on a small model, on batches of 13 and 9 rows that no number of processes divides, in small micro-batches. Its
gradients are compared with those of one process, one forward and one backward without any of the parts that are tested: the largest
difference, over the largest gradient of the parameter (scripts/equivalence_cells.py). One launch runs all cells of a number of
processes. What was measured is kept in build/equivalence.jsonl. When every cell is within the limit, docs/equivalence.md and what model cards
read (stpipe/cards/equivalence.json) are written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

from scripts.equivalence_cells import LIMIT, Cell, Result
from scripts.equivalence_launch import as_result, launch
from scripts.equivalence_matrix import CHOSEN, PROCESSES, Way, cells_of, computed, further_cells, keys_named, measured_cells, ways
from scripts.equivalence_page import Refused, matrix, page
from scripts.equivalence_tasks import TASKS
from stpipe.cards.equivalence import FILE
from stpipe.reports.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]
PAGE, KEPT = ROOT / "docs" / "equivalence.md", ROOT / "build" / "equivalence.jsonl"
#: What a measurement depends on.
SOURCES = (
    "stpipe/core",
    "stpipe/ops",
    "stpipe/losses",
    "stpipe/models",
    "stpipe/engine",
    "stpipe/data/stream.py",
    "scripts/equivalence_*.py",
)
SECONDS = 2.0


def digest() -> str:
    """Of all sources that a measurement depends on."""
    found = hashlib.sha256()
    for pattern in SOURCES:
        place = ROOT / pattern
        for path in sorted(place.rglob("*.py")) if place.is_dir() else sorted(place.parent.glob(place.name)):
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


class Kept:
    """Results on disk, a line each, so that an interrupted run can go on."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path, self.sources = path, digest()
        self.results: dict[Cell, Result] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if resume and path.exists() else []
        usable = [row for row in rows if row["sources"] == self.sources and not row["error"]]
        if resume:
            print(f"{len(usable)} of {len(rows)} kept results are of these sources and are used", flush=True)
        self.results.update((result.cell, result) for result in map(as_result, usable))
        path.write_text("".join(json.dumps(row) + "\n" for row in usable), encoding="utf-8")

    def add(self, result: Result) -> None:
        self.results[result.cell] = result
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**asdict(result), "sources": self.sources}) + "\n")


def ask(found: list[Way]) -> tuple[list[Refused], list[str], float]:
    """What `validate` refuses; what is wrong with its answers; its slowest answer in seconds."""
    refused: list[Refused] = []
    wrong: list[str] = []
    slowest = 0.0
    for way in found:
        answer, works = way.answer(), computed(way)
        slowest = max(slowest, answer.seconds)
        if answer.loss is None:
            refused.append(Refused(way, answer.messages))
            wrong += [f"{way}: names one key only: {m}" for m in answer.messages if len(keys_named(m)) < 2]
        if works != (answer.loss is not None):
            wrong.append(f"{way}: {'computed, but refused' if works else 'not computed, but not refused'}: {answer.messages}")
        if answer.seconds > SECONDS:
            wrong.append(f"{way}: validate took {answer.seconds:.1f} s")
    return refused, wrong, slowest


def command_seconds() -> float:
    """Processor time of a refusal by the command itself, from its start to its end."""
    overrides = ["model=dense", "model.name_or_path=a/b", "dataset.train=a/b", "dataset.format=pair", "loss=mnrl", "strategy=micro"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "stpipe", "validate", *overrides], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "strategy.name" in done.stderr and "loss.name" in done.stderr, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(cells: Iterable[Cell], kept: Kept) -> None:
    """Measure what is not kept yet, one launch for each number of processes."""
    by_size: dict[int, list[Cell]] = {}
    for cell in cells:
        if cell not in kept.results:
            by_size.setdefault(cell.processes, []).append(cell)
    for size, group in sorted(by_size.items()):
        began, done = time.monotonic(), 0

        def note(result: Result, total: int = len(group), began: float = began, size: int = size) -> None:
            nonlocal done
            done += 1
            kept.add(result)
            if result.difference is None or result.difference > LIMIT:
                print(f"over the limit: {result}", flush=True)
            if done % 50 == 0 or done == total:
                print(f"{size} processes: {done} of {total} cells, {time.monotonic() - began:.0f} s", flush=True)

        launch(group, log=kept.path.with_suffix(".log"), on_result=note)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", nargs="+", type=int, default=list(PROCESSES))
    parser.add_argument("--backends", nargs="+", choices=list(CHOSEN), default=list(CHOSEN))
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--resume", action="store_true", help="use what an interrupted run of the same sources has measured")
    parser.add_argument("--every", action="store_true", help="infer nothing: one batch a step and two also with 1 and 4 processes")
    parser.add_argument("--no-write", action="store_true", help="write neither docs/equivalence.md nor stpipe/cards/equivalence.json")
    args = parser.parse_args()
    began = time.monotonic()
    kept = Kept(KEPT, resume=args.resume)
    asked = ways(args.backends, args.tasks)
    refused, wrong, slowest = ask(asked)
    print(f"validate refuses {len(refused)} of {len(asked)} ways, {time.monotonic() - began:.0f} s", flush=True)
    cells = [cell for size in args.processes for cell in measured_cells(asked, size, every=args.every)]
    inferred = sum(len(cells_of(way, size)) for size in args.processes for way in asked if computed(way)) - len(cells)
    if args.tasks == list(TASKS):
        cells += [cell for size in args.processes for cell in further_cells(args.backends, size)]
    measure(cells, kept)
    found = [kept.results[cell] for cell in cells]
    bad = [r for r in found if r.difference is None or not r.difference <= LIMIT]
    minutes = (time.monotonic() - began) / 60
    text = page(found, refused, inferred=inferred, slowest=slowest, command=command_seconds())
    print(f"{len(found)} cells in {minutes:.0f} minutes; {len(bad)} over the limit; {len(wrong)} wrong answers of validate")
    print(*(f"over the limit: {result}" for result in bad), *wrong, sep="\n")
    if args.no_write:
        print(text)
    elif not bad and not wrong:
        write_text(PAGE, text)
        write_text(FILE, json.dumps(matrix(found), separators=(",", ":")) + "\n")
    return 1 if bad or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
