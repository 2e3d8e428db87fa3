"""Runs of the real command in processes that are forked off this one, where torch is imported already: a start costs a fraction of a second.

This process must never compute anything with torch itself: threads do not survive a fork.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.soak.faults import Point, install

TIMEOUT = 600.0
KILLED = -signal.SIGKILL


@dataclass(frozen=True)
class Ended:
    """How the processes of an attempt ended: exit codes, negative for signals, by rank; output: file with what they printed."""

    codes: tuple[int, ...]
    output: Path
    seconds: float

    @property
    def killed(self) -> bool:
        return KILLED in self.codes

    def tail(self) -> str:
        return self.output.read_text(errors="replace")[-1500:]


def load() -> None:
    """Import what a run needs, so that those that are forked have it."""
    for name in (
        "matplotlib.figure",
        "sklearn.metrics",
        "transformers.models.bert.modeling_bert",
        "stpipe.cli.train",
        "stpipe.pipeline.train",
    ):
        importlib.import_module(name)
    from stpipe.config.builtin import load_components

    load_components()


def attempt(arguments: Sequence[str], *, folder: Path, run: str, processes: int, point: Point | None, timeout: float = TIMEOUT) -> Ended:
    """Run the command to its end, or to that of the process that ends at `point`, which takes the others along.

    Args:
        arguments: of `stpipe`.
        folder: working directory.
        run: run.dir in it. The logs of its steps are `run`.rank-N.log beside it, over all attempts.
        processes: that train together.
        point: where one of them ends; None: nowhere.
        timeout: seconds until all are ended.
    """
    from stpipe.launch.local import free_port

    output = folder / f"{run}.output"
    port = str(free_port())
    began = time.monotonic()
    pids: list[int] = []
    for rank in range(processes):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {} if processes == 1 else {name: str(value) for name, value in place.items()}
        own = point if point is not None and point.rank == rank else None
        pids.append(_fork(arguments, folder, run, rank, environment, own, output))
    deadline = began + timeout
    at = began + point.seconds if point is not None and point.kind == "time" else deadline
    codes: dict[int, int] = {}
    while len(codes) < processes:
        for rank, pid in enumerate(pids):
            if rank not in codes and (found := os.waitpid(pid, os.WNOHANG))[0]:
                codes[rank] = os.waitstatus_to_exitcode(found[1])
        lost = any(code < 0 for code in codes.values())
        if lost or time.monotonic() > min(at, deadline):
            for rank, pid in enumerate(pids):
                if rank not in codes:
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    for pid in pids:
        _end_group(pid)
    return Ended(tuple(codes[rank] for rank in range(processes)), output, time.monotonic() - began)


def _end_group(pid: int) -> None:
    """End what a process of ours has left: workers of its loader."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _fork(
    arguments: Sequence[str], folder: Path, run: str, rank: int, environment: dict[str, str], point: Point | None, output: Path
) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        handle = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.environ.update(environment)
        command = [*arguments, f"run.dir={run}", "trainer.resume=auto"]
        sys.argv = ["stpipe", *command]
        install(folder / f"{run}.rank-{rank}.log", folder / run, point)
        from stpipe.cli.main import main

        code = main(command)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
