"""What the published measurements say of a run of several processes: does its step equal that of one?

`scripts/equivalence.py` compares the gradients of several processes with those of one, for every loss, number of hard negatives, strategy,
backend and number of processes. docs/equivalence.md shows what it found to people, equivalence.json beside this file to cards:
`tasks` (name -> kind of model, classes of the loss, cells), a cell at negatives -> strategy -> backend -> processes, its value the largest
relative difference of a gradient.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stpipe.cards.losses import LossFacts
from stpipe.config.formats import negative_roles
from stpipe.reports.run_record import RunRecord, mapping

FILE = Path(__file__).with_name("equivalence.json")
#: What tells the cells of a loss apart, outermost first.
FACTORS = ("{} hard negatives", "strategy {}", "backend {}", "{} processes")
ONE = "single"


@dataclass(frozen=True)
class Computed:
    """How a data set was trained on: classes of its loss, outermost first, and the four factors of a cell as text."""

    kind: str
    losses: tuple[str, ...]
    negatives: str
    strategy: str
    backend: str
    processes: str

    @property
    def factors(self) -> tuple[str, ...]:
        return (self.negatives, self.strategy, self.backend, self.processes)


@cache
def published_matrix() -> Mapping[str, Any]:
    """equivalence.json; empty where this version brings none."""
    return dict(json.loads(FILE.read_text(encoding="utf-8"))) if FILE.is_file() else {}


def equivalence_rows(
    record: RunRecord, losses: Sequence[LossFacts], *, kind: str, matrix: Mapping[str, Any] | None = None
) -> list[dict[str, str]]:
    """A row for each data set of a run of several processes, column by column as text; none for a run of one process.

    Args:
        record: the run; its plan says how each data set was computed.
        losses: of the run (cards/losses.py).
        kind: of the model, "dense", "sparse" or "cross_encoder".
        matrix: the measurements; None: those of this version.
    """
    processes = record.plan.get("processes")
    if not isinstance(processes, int) or processes < 2:
        return []
    found = published_matrix() if matrix is None else matrix
    rows = []
    for name, facts in mapping(record.plan.get("sources")).items():
        loss = next((f for f in losses if f.source in (name, None)), None)
        computed = Computed(
            kind,
            () if loss is None else loss.names,
            str(len(negative_roles(facts.get("roles") or ()))),
            str(facts.get("strategy")),
            backend_name(record.section("backend")),
            str(processes),
        )
        rows.append({"Data": name, **_row(computed, found)})
    return rows


def backend_name(section: Mapping[str, Any]) -> str:
    """A backend as the measurements call it: its registered name, of DeepSpeed the stage, and what of its options they tell apart."""
    name = str(section.get("name") or ONE)
    options = []
    if name == "deepspeed":
        name = f"zero{section.get('stage', 2)}"
        offloaded = [key for key in ("optimizer", "parameters") if section.get(f"offload_{key}")]
        whole = ["optimizer", "parameters"] if name == "zero3" else ["optimizer"]
        options += [] if not offloaded else ["offload"] if offloaded == whole else [f"offload of {offloaded[0]}"]
    if section.get("reshard_after_forward") is False:
        options.append("whole after forward")
    if section.get("cpu_offload"):
        options.append("offload")
    return ", ".join([name, *options])


def measured(computed: Computed, matrix: Mapping[str, Any]) -> tuple[float | None, str]:
    """(largest relative difference of a gradient, why there is none). Of several measured variants of a loss (a learned scale, say) the worst."""
    every = mapping(matrix.get("tasks")).values()
    if not every:
        return None, "this version publishes no measurements"
    tasks = [task for task in every if (task["kind"], tuple(task["losses"])) == (computed.kind, computed.losses)]
    if not tasks:
        return None, f"not with {', '.join(computed.losses) or 'a loss that is not recorded'}"
    level = [task["cells"] for task in tasks]
    for factor, value in zip(FACTORS, computed.factors, strict=True):
        known = list(dict.fromkeys(key for cells in level for key in cells))
        level = [cells[value] for cells in level if value in cells]
        if not level:
            return None, f"not with {factor.format(value)}, but with {', '.join(known)}"
    return max(float(value) for value in level), ""


def _row(computed: Computed, matrix: Mapping[str, Any]) -> dict[str, str]:
    difference, why = measured(computed, matrix)
    said = f"not measured ({why})" if difference is None else f"{difference:.1e} (limit {matrix['limit']:.0e})"
    return {
        "Loss": ", ".join(computed.losses) or "not recorded",
        "Hard negatives": computed.negatives,
        "Strategy": computed.strategy,
        "Backend": computed.backend,
        "Processes": computed.processes,
        "Largest difference of a gradient from one process": said,
    }
