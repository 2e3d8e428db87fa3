"""Do several processes take the optimiser step of one? Every loss, strategy, backend, number of processes and accumulation, measured.

    python scripts/equivalence.py                      everything, writes docs/equivalence.md (about 40 minutes on two cores)
    python scripts/equivalence.py --processes 2 --backends ddp fsdp2 --no-write

Each cell is one step of SGD with rate 1 on a small model in fp32, on batches of 13 and 9 rows that no number of processes divides, with
small micro-batches, and with two batches also with clipping. It is compared with one process, one forward and one backward: the largest
difference of any parameter's change, over the largest change. One launch a backend and number of processes runs all of its cells.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the processes that this one starts, too
os.environ.setdefault("OMP_NUM_THREADS", "1")

from scripts.equivalence_cells import BUDGET, OBJECTIVES, Cell, Outcome, difference, run_all, run_cell
from stpipe.core.peers import Peers
from stpipe.engine.backends import DDP, FSDP2, Backend, DeepSpeed
from stpipe.engine.strategies import Micro, Plain, Recompute, Strategy, TwoPass

BACKENDS: dict[str, Backend] = {
    "ddp": DDP(),
    "fsdp2": FSDP2(),
    "deepspeed_zero1": DeepSpeed(stage=1),
    "deepspeed_zero2": DeepSpeed(stage=2),
    "deepspeed_zero3": DeepSpeed(stage=3, small_parameters=0),
}
STRATEGIES: tuple[Strategy, ...] = (Plain(BUDGET), Recompute(BUDGET), TwoPass(BUDGET), Micro(BUDGET))
#: Batches of a step, and trainer.max_grad_norm.
STEPS = ((1, None), (2, 0.5))
LIMIT = 1e-5
PAGE = Path(__file__).resolve().parents[1] / "docs" / "equivalence.md"

#: (objective, backend, processes) -> largest difference of the cells, or why there is none.
Table = dict[tuple[str, str, int], float | str]


def cells_of(objective: str, backend: Backend) -> list[Cell]:
    """All cells of a row of the table."""
    coupling = OBJECTIVES[objective].loss.effective_coupling()
    return [Cell(objective, s, backend, batches, norm) for s in STRATEGIES if coupling in s.couplings for batches, norm in STEPS]


def measure(objectives: list[str], backends: Mapping[str, Backend], processes: list[int]) -> tuple[Table, int]:
    """The table, and how many cells it stands for."""
    references: dict[Cell, Outcome] = {}
    table: Table = {}
    count = 0
    for size in processes:
        for name, backend in backends.items():
            began = time.monotonic()
            cells = [cell for objective in objectives for cell in cells_of(objective, backend)]
            worst: dict[str, float] = defaultdict(float)
            for cell, outcome in zip(cells, run_all(cells, size), strict=True):
                if isinstance(outcome, str):
                    table[cell.objective, name, size] = outcome
                    continue
                reference = cell.reference
                if reference not in references:
                    references[reference] = run_cell(reference, Peers())
                worst[cell.objective] = max(worst[cell.objective], difference(outcome, references[reference]))
            table.update({(objective, name, size): value for objective, value in worst.items()})
            count += len(cells)
            print(
                f"{name}, {size} processes: {len(cells)} cells, worst {max(worst.values()):.1e}, {time.monotonic() - began:.0f} s",
                flush=True,
            )
    return table, count


def page(table: Table, count: int) -> str:
    """docs/equivalence.md."""
    columns = sorted({(name, size) for _, name, size in table}, key=lambda c: (c[1], list(BACKENDS).index(c[0])))
    numbers = [v for v in table.values() if isinstance(v, float)]
    lines = [
        "# Several processes, one gradient",
        "",
        "Written by `python scripts/equivalence.py`. Each number is the largest difference between the step of several processes and that of one "
        "process with one forward and one backward, over the largest change of any parameter, in fp32. It is the worst of the strategies plain, "
        "recompute and two_pass, for losses whose rows need nothing of each other also micro, each with one batch a step, and with two batches of "
        "13 and 9 rows and clipping. Small model, dropout off, rows that no number of processes divides, micro-batches of 40 tokens.",
        "",
        f"{count} cells; the worst is {max(numbers):.1e}, the limit {LIMIT:.0e}. `stpipe validate` refuses what is not in the table (see "
        "[distributed.md](distributed.md)).",
        "",
        "| loss | coupling | " + " | ".join(f"{name}, {size}" for name, size in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for objective in dict.fromkeys(o for o, _, _ in table):
        values = [table.get((objective, *column), "") for column in columns]
        shown = [f"{v:.0e}" if isinstance(v, float) else v for v in values]
        lines.append(f"| {objective} | {OBJECTIVES[objective].loss.effective_coupling()} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--backends", nargs="+", choices=list(BACKENDS), default=list(BACKENDS))
    parser.add_argument("--objectives", nargs="+", choices=list(OBJECTIVES), default=list(OBJECTIVES))
    parser.add_argument("--no-write", action="store_true", help="do not write docs/equivalence.md")
    args = parser.parse_args()
    table, count = measure(args.objectives, {name: BACKENDS[name] for name in args.backends}, args.processes)
    text = page(table, count)
    if not args.no_write:
        PAGE.write_text(text, encoding="utf-8")
    print(text)
    bad = [key for key, value in table.items() if isinstance(value, str) or value > LIMIT]
    for key in bad:
        print(f"over the limit: {key}: {table[key]}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
