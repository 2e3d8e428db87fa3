"""Is a run that is killed and continued the run that was not? Many runs of every task, each killed again and again.

    python scripts/soak_resume.py --kills 200                 until so many kills were made, in all cells in turn
    python scripts/soak_resume.py --cells "dense ddp" --kills 20
    python scripts/soak_resume.py --table                     what was found so far

Small runs of dense models, sparse encoders and rerankers (tests/soak/cells.py), with every sampler, in one process and in two, are ended by
SIGKILL at random: within a step, in an evaluation, at any time, and before, inside or after each write, fsync, rename and removal of
their files. Each is then finished and compared with a run that was not killed: the rows of each step on each process, learning rates,
losses, metrics and the bytes of the model. A run is lost when it cannot be continued, and different when one of these is.

Results are kept in a file, and runs that are in it are not repeated: the script goes on where it stopped. The exit code is 1 when a run was lost or
different.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"})
os.environ.update({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})

from tests.soak.cells import CELLS, Cell, prepare
from tests.soak.processes import load
from tests.soak.soak import killed_run, random_points, whole_run

ROOT = Path(__file__).resolve().parents[1]


def results(path: Path) -> list[dict[str, Any]]:
    """What was found so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(found: Sequence[dict[str, Any]]) -> str:
    """One line a cell, and the sum."""
    lines = [f"{'cell':<28}{'runs':>6}{'kills':>7}{'lost':>6}{'different':>11}{'seconds':>9}"]
    names = [cell.name for cell in CELLS if any(r["cell"] == cell.name for r in found)]
    for name in [*names, "all"]:
        rows = [r for r in found if name in ("all", r["cell"])]
        kills = sum(len(r["kills"]) for r in rows)
        lost, different = sum(r["lost"] is not None for r in rows), sum(bool(r["different"]) for r in rows)
        lines.append(f"{name:<28}{len(rows):>6}{kills:>7}{lost:>6}{different:>11}{sum(r['seconds'] for r in rows):>9.0f}")
    return "\n".join(lines)


def soak(cells: Sequence[Cell], folder: Path, file: Path, *, kills: int, each: int, seed: int, until: float) -> None:
    """Kill runs of the cells in turn until so many kills are in the file, or the time has come."""
    prepare(folder)
    wanted = {cell.name for cell in cells}
    number = 0
    while True:
        for cell in cells:
            found = [r for r in results(file) if r["cell"] in wanted]
            if sum(len(r["kills"]) for r in found) >= kills or time.time() > until:
                return
            if any((r["cell"], r["number"]) == (cell.name, number) for r in found):
                continue
            traces, seconds = whole_run(cell, folder)
            points = random_points(cell, folder, number, traces, seconds, seed=seed)
            outcome = killed_run(cell, folder, number, points, kills=each)
            with file.open("a") as out:
                out.write(json.dumps(outcome.as_dict()) + "\n")
            state = "lost" if outcome.lost else "different" if outcome.different else "the same"
            print(
                f"{time.strftime('%H:%M:%S')} {cell.name} {number}: {len(outcome.kills)} kills, {state} ({outcome.seconds:.0f} s)",
                flush=True,
            )
        number += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kills in all, those in the file included")
    parser.add_argument("--each", type=int, default=5, help="kills of a run, at most")
    parser.add_argument("--cells", nargs="*", choices=[cell.name for cell in CELLS], help="runs to kill; all when left out")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "soak", help="where runs and results are kept")
    parser.add_argument("--seed", type=int, default=0, help="of the points")
    parser.add_argument("--minutes", type=float, default=1e6, help="start no run after so many minutes")
    parser.add_argument("--table", action="store_true", help="only show what was found so far")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "results.jsonl"
    if not options.table:
        os.environ["STPIPE_CACHE"] = str(folder / "cache")
        os.environ["HF_HOME"] = tempfile.mkdtemp(dir=folder, prefix="hub-")
        load()
        cells = [cell for cell in CELLS if options.cells is None or cell.name in options.cells]
        until = time.time() + 60 * options.minutes
        soak(cells, folder, file, kills=options.kills, each=options.each, seed=options.seed, until=until)
    found = results(file)
    print(table(found))
    for r in found:
        if r["lost"] or r["different"]:
            print(f"\n{r['cell']} {r['number']}, killed at {r['kills']}:", r["lost"] or "\n  ".join(["", *r["different"][:10]]))
    return 1 if any(r["lost"] or r["different"] for r in found) else 0


if __name__ == "__main__":
    sys.exit(main())
