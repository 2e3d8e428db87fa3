"""One run, killed again and again, and what came of it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stpipe.engine.checkpoint import list_checkpoints
from tests.soak.cells import Cell
from tests.soak.compare import Trace, differences, read_trace
from tests.soak.faults import Point
from tests.soak.processes import Ended, attempt

#: Attempts at points that a run may miss, for each kill that is wanted.
PATIENCE = 3


@dataclass
class Outcome:
    """What came of a run. kills: points at which it was killed; missed: those that it did not meet; lost: why it could not be finished;
    different: in what it differs from a run that was not killed."""

    cell: str
    number: int
    kills: list[dict[str, Any]] = field(default_factory=list)
    missed: int = 0
    lost: str | None = None
    different: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def whole_run(cell: Cell, folder: Path) -> tuple[list[Trace], float]:
    """The run that is not killed, once; (what each of its processes logged, its seconds)."""
    work = folder / "work" / cell.name.replace(" ", "-")
    seconds = work / "seconds"
    if not seconds.exists():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        ended = _attempt(cell, folder, work, "whole", None)
        if set(ended.codes) != {0}:
            raise RuntimeError(f"{cell.name}: the run that is not killed ended with {ended.codes}:\n{ended.tail()}")
        seconds.write_text(str(ended.seconds))
    return [read_trace(work / f"whole.rank-{rank}.log") for rank in range(cell.processes)], float(seconds.read_text())


def killed_run(cell: Cell, folder: Path, number: int, points: Iterator[Point], *, kills: int) -> Outcome:
    """A run that is killed up to so many times at the next of the points, then finished and compared."""
    work = folder / "work" / cell.name.replace(" ", "-")
    outcome, run = Outcome(cell.name, number), f"cut-{number}"
    for stale in work.glob(f"{run}*"):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    while len(outcome.kills) < kills and outcome.missed < PATIENCE * kills:
        point = next(points, None)
        if point is None:
            break
        ended = _attempt(cell, folder, work, run, point)
        outcome.seconds += ended.seconds
        if ended.killed:
            outcome.kills.append(point.as_dict())
        elif set(ended.codes) == {0}:
            outcome.missed += 1
            break
        else:
            outcome.lost = f"exit codes {ended.codes} on the way to {point}: {ended.tail()}"
            return outcome
    ended = _attempt(cell, folder, work, run, None)
    outcome.seconds = round(outcome.seconds + ended.seconds, 1)
    if set(ended.codes) != {0}:
        outcome.lost = f"exit codes {ended.codes} when it was continued: {ended.tail()}"
        return outcome
    outcome.different = differences(work, "whole", run, processes=cell.processes)
    if not outcome.different:
        for path in work.glob(f"{run}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return outcome


def _attempt(cell: Cell, folder: Path, work: Path, run: str, point: Point | None) -> Ended:
    return attempt(cell.command(folder), folder=work, run=run, processes=cell.processes, point=point)


def random_points(cell: Cell, folder: Path, number: int, traces: list[Trace], seconds: float, *, seed: int) -> Iterator[Point]:
    """Points without end, each such that the run has probably not passed it yet: half of them in files, the others in steps, evaluations and at any time."""
    draw = random.Random(f"{seed} {cell.name} {number}")
    checkpoints = folder / "work" / cell.name.replace(" ", "-") / f"cut-{number}" / "checkpoints"
    last = max(traces[0].steps)
    choices: list[Callable[[int], Point]] = [
        lambda done: _file_point(traces, draw),
        lambda done: _file_point(traces, draw),
        lambda done: Point("step", draw.randint(min(done, last), min(done + 4, last)), rank=draw.randrange(cell.processes)),
        lambda done: Point("time", seconds=draw.uniform(0.1, 1.0) * seconds),
    ]
    evaluations = traces[0].evaluations

    def evaluation(done: int) -> Point:
        step = next((s for s in sorted(evaluations) if s > done), max(evaluations))
        return Point("evaluation", step, forward=draw.randint(1, max(evaluations[step], 1)))

    if evaluations:
        choices.append(evaluation)
    while True:
        found = list_checkpoints(checkpoints)
        yield draw.choice(choices)(found[-1].step if found else 0)


def _file_point(traces: list[Trace], draw: random.Random) -> Point:
    rank = draw.choice([rank for rank, trace in enumerate(traces) if trace.files])
    count = len(traces[rank].files)
    # Numbers count from the start of the process: low ones are met again after each start, high ones only by a run that starts from nothing.
    number = draw.randrange(count if draw.random() < 0.25 else max(count // 3, 1))
    return Point("file", number, draw.choice(["before", "half", "after"]), rank=rank)
