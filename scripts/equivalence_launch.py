"""Launches of processes that measure the cells of scripts/equivalence_cells.py."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from scripts.equivalence_cells import Cell, Result, Variant, measure
from stpipe.core.peers import ConnectedPeers
from stpipe.core.world import World
from stpipe.launch.local import free_port

#: Seconds without a result after which a launch counts as hanging.
PATIENCE = 600.0
PORT_TAKEN = "EADDRINUSE"
#: Where a launch tells what it does, a JSON a line; the results are for good.
Row = dict[str, Any]


def launch(
    cells: Sequence[Cell],
    *,
    log: Path,
    on_result: Callable[[Result], None] = lambda result: None,
    variants: Mapping[str, Variant] | None = None,
) -> list[Result]:
    """Measure cells of one number of processes in one launch. If a process fails, its cell is an error, and the rest is launched again.

    Args:
        cells: any order.
        log: a file for what rank 0 has done.
        on_result: called as results come in.
        variants: by the names in Cell.fault.
    """
    left = sorted(cells, key=lambda cell: cell.start)
    results: list[Result] = []
    while left:
        log.write_text("", encoding="utf-8")
        error = _run(left, log, on_result, variants or {})
        if error is not None and PORT_TAKEN in error:  # by another program, between choosing it and listening; nothing has begun
            error = _run(left, log, on_result, variants or {})
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        done = [as_result(row) for row in rows if "begun" not in row]
        if error is not None:
            begun = [Cell(**row["begun"]) for row in rows if "begun" in row]
            done.append(Result(begun[-1] if begun else left[0], None, error))
            on_result(done[-1])
        results += done
        finished = {result.cell for result in results}
        left = [cell for cell in left if cell not in finished]
        assert done, "the launch ended without a result"
    return results


def as_result(row: Row) -> Result:
    """A result from its line."""
    return Result(Cell(**row["cell"]), row["difference"], row["error"])


def _run(cells: Sequence[Cell], log: Path, on_result: Callable[[Result], None], variants: Mapping[str, Variant]) -> str | None:
    """One launch; returns why it ended early, None when it did not."""
    _import_once()
    size = cells[0].processes
    context = mp.start_processes(
        _process, args=(size, free_port(), list(cells), str(log), dict(variants)), nprocs=size, join=False, start_method="forkserver"
    )
    seen, last = 0, time.monotonic()
    try:
        while True:
            ended = context.join(timeout=1)
            lines = [line for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
            for row in map(json.loads, lines[seen:]):
                if "begun" not in row:
                    on_result(as_result(row))
            if len(lines) > seen:
                seen, last = len(lines), time.monotonic()
            if ended:
                return None
            if time.monotonic() - last > PATIENCE:
                return f"no result within {PATIENCE:.0f} s"
    except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
        return str(error).strip().splitlines()[-1]
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()


def _import_once() -> None:
    """Have the server from which processes are forked import what they need, which takes longer than many cells."""
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    wanted = {"PYTHONPATH": path, "DS_ACCELERATOR": "cpu"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        multiprocessing.set_forkserver_preload(["scripts.equivalence_launch", "deepspeed"])
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _process(rank: int, size: int, port: int, cells: Sequence[Cell], log: str, variants: Mapping[str, Variant]) -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    gc.freeze()  # what was imported stays; looking through it at the end of every backend would take longer than the backend
    peers = ConnectedPeers(World(rank, size, rank, "127.0.0.1", port))
    with open(log, "a", encoding="utf-8") as file:

        def write(row: Row) -> None:
            if rank == 0:
                file.write(json.dumps(row) + "\n")
                file.flush()

        try:
            for result in measure(cells, peers, lambda cell: write({"begun": asdict(cell)}), variants):
                write(asdict(result))
        except Exception:
            traceback.print_exc()
            raise
    peers.close()
