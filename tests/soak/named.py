"""The short form of the soak: a few runs, killed at named places. `python -m tests.soak.named FOLDER` runs it in a process that computes nothing itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.soak.cells import CELLS, prepare
from tests.soak.compare import Trace
from tests.soak.faults import Point
from tests.soak.processes import load
from tests.soak.soak import killed_run, whole_run

#: Kills within steps of the six of an epoch, of which every third is saved; then the first step of the next epoch.
STEPS = {"twice in an epoch": (4, 5), "epoch boundary": (6,)}
WRITING, DELETING = "checkpoints/.writing-step-*", "checkpoints/.deleting-step-*"
#: (operation, file, when) of a save, in its order. The last two leave the checkpoint behind, so that the next attempt starts from it.
SAVE = (
    ("write", f"{WRITING}/module.pt", "half"),
    ("write", f"{WRITING}/optimizer.pt", "after"),
    ("write", f"{WRITING}/manifest.json", "half"),
    ("fsync", f"{WRITING}/module.pt", "before"),
    ("fsync", WRITING, "after"),
    ("rename", "checkpoints/step-*", "before"),
    ("rename", "checkpoints/step-*", "after"),
    ("unlink", f"{DELETING}/module.pt", "after"),
)


@dataclass(frozen=True)
class Plan:
    """Where a run is killed, in this order: kinds of STEPS, "evaluation" (the second), and then in saves. kills: how often in all."""

    kinds: tuple[str, ...]
    save: tuple[tuple[str, str, str], ...] = ()

    @property
    def kills(self) -> int:
        return len(self.save) + sum(1 if kind == "evaluation" else len(STEPS[kind]) for kind in self.kinds)


PLANS = {
    "dense random": Plan(("twice in an epoch", "epoch boundary", "evaluation"), SAVE),
    "sparse splade": Plan(("twice in an epoch", "evaluation")),
    "reranker pairs random": Plan(("epoch boundary",), SAVE[5:7]),
}


def points(plan: Plan, trace: Trace) -> Iterator[Point]:
    """The places of a plan, in the run that left this trace."""
    for kind in plan.kinds:
        if kind == "evaluation":
            second = sorted(trace.evaluations)[1]
            yield Point("evaluation", second, forward=max(trace.evaluations[second] // 2, 1))
        else:
            yield from (Point("step", step) for step in STEPS[kind])
    for operation, name, when in plan.save:
        yield Point("operation", when=when, operation=operation, name=name)


def main(folder: Path) -> int:
    """Run all plans; what came of them is in FOLDER/outcomes.jsonl."""
    prepare(folder)
    load()
    with (folder / "outcomes.jsonl").open("a") as out:
        for name, plan in PLANS.items():
            cell = next(c for c in CELLS if c.name == name)
            traces, _ = whole_run(cell, folder)
            outcome = killed_run(cell, folder, 0, points(plan, traces[0]), kills=plan.kills)
            out.write(json.dumps(outcome.as_dict()) + "\n")
            out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
