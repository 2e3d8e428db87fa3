"""docs/equivalence.md, and its twin for model cards, of the results of scripts/equivalence.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from scripts.equivalence_cells import CLIP, LIMIT, STRATEGIES, Cell, Result
from scripts.equivalence_matrix import CHOSEN, Way, keys_named
from scripts.equivalence_tasks import KINDS, NEGATIVES, TASKS, loss_of
from stpipe.cards.losses import describe_losses

#: Why a way is refused, by the keys that the message names, and the letter that stands for it.
REASONS = {
    "d": ("the data", ("loss.name", "dataset.format"), "the loss takes no data with so many negatives"),
    "c": ("the coupling", ("strategy.name", "loss.name"), "the strategy computes part by part what the loss has to see at once"),
    "p": ("parameters of the loss", ("strategy.name", "loss.name"), "the strategy does not train what the loss learns itself"),
}


@dataclass(frozen=True)
class Refused:
    """What `validate` refuses, and its messages."""

    way: Way
    messages: tuple[str, ...]

    @property
    def reasons(self) -> str:
        """Letters of REASONS."""
        return "".join(sorted({letter(message) for message in self.messages}))


def letter(message: str) -> str:
    """The reason of a message."""
    if "dataset.format" in keys_named(message):
        return "d"
    return "p" if "does not train" in message else "c"


def matrix(results: Sequence[Result]) -> dict[str, Any]:
    """What stpipe/cards/equivalence.py reads: plain JSON. Of one batch a step and two the worse; without clipping and epochs."""
    tasks: dict[str, dict[str, Any]] = {}
    for result in results:
        cell, value = result.cell, result.difference
        if cell.clip or cell.epochs or value is None:
            continue
        loss = describe_losses({"": loss_of(cell.task, cell.negatives)})[0]
        task = tasks.setdefault(cell.task, {"kind": KINDS[TASKS[cell.task].model], "losses": list(loss.names), "cells": {}})
        strategies = task["cells"].setdefault(str(cell.negatives), {}).setdefault(cell.strategy, {})
        sizes = strategies.setdefault(cell.backend, {})
        sizes[str(cell.processes)] = max(sizes.get(str(cell.processes), 0.0), float(f"{value:.1e}"))
    return {"limit": LIMIT, "versions": {name: version(name) for name in ("stpipe", "torch")}, "tasks": tasks}


def page(results: Sequence[Result], refused: Sequence[Refused], *, inferred: int, slowest: float, command: float) -> str:
    """The whole page."""
    plain = [r for r in results if not r.cell.clip and not r.cell.epochs and r.cell.backend in CHOSEN]
    further = [r for r in results if r not in plain]
    worst = max((r.difference for r in results if r.difference is not None), default=float("nan"))
    rows = [(t, n) for t in TASKS for n in NEGATIVES if any((r.cell.task, r.cell.negatives) == (t, n) for r in plain)]
    columns = list(
        dict.fromkeys(
            (r.cell.backend, r.cell.processes) for r in sorted(plain, key=lambda r: (r.cell.processes, list(CHOSEN).index(r.cell.backend)))
        )
    )
    return "\n".join(
        [
            *head(len(results), inferred, worst),
            *table(
                "## By backend and number of processes",
                "The worst of all strategies that compute the loss, with one batch a step and with two.",
                rows,
                [f"{backend}, {size}" for backend, size in columns],
                lambda task, n, column: worst_of(plain, task, n, lambda c: f"{c.backend}, {c.processes}" == column),
            ),
            *table(
                "## By strategy",
                "The worst of all backends and numbers of processes. Letters: refused, see below.",
                rows,
                list(STRATEGIES),
                lambda task, n, column: worst_of(plain, task, n, lambda c: c.strategy == column) or reasons(refused, task, n, column),
            ),
            *others(further),
            *refusals(refused, slowest, command),
        ]
    )


def head(count: int, inferred: int, worst: float) -> list[str]:
    return [
        "# Several processes, one gradient",
        "",
        "Written by `python scripts/equivalence.py`; what it means for a run is in [distributed.md](distributed.md).",
        "",
        "Each number compares the gradients of an optimiser step over several processes with those of one process that does one forward and one "
        "backward over all rows, without backend, strategy, accumulation or collectives: the largest difference, over the largest gradient of the "
        "parameter (of the model where the parameter's is below 3 % of that), or the difference of the gradient norms if that is larger. fp32, a BERT "
        "of two small layers, no dropout, batches of 13 and 9 rows, which no number of processes divides, micro-batches of 60 tokens.",
        "",
        f"{count} cells were measured. The worst is {worst:.1e}; the limit is {LIMIT:.0e}. "
        + (
            f"{inferred} more are inferred: with 1 and 4 processes each combination of loss, negatives, strategy and backend was measured with one batch a "
            "step or with two, in turn, and with 2 processes with both. No number below is inferred alone."
            if inferred
            else "None is inferred."
        ),
        "",
    ]


def table(
    title: str, text: str, rows: Sequence[tuple[str, int]], columns: Sequence[str], value: Callable[[str, int, str], str]
) -> list[str]:
    lines = [title, "", text, "", "| loss | negatives | coupling | " + " | ".join(columns) + " |", "|---|---|---|" + "---|" * len(columns)]
    for task, negatives in rows:
        coupling = loss_of(task, negatives).effective_coupling()
        shown = " | ".join(value(task, negatives, column) for column in columns)
        lines.append(f"| {task} | {negatives} | {coupling} | {shown} |")
    return [*lines, ""]


def worst_of(results: Iterable[Result], task: str, negatives: int, wanted: Callable[[Cell], bool]) -> str:
    """The largest difference of some cells, or that one of them failed; empty when there are none."""
    found = [r for r in results if (r.cell.task, r.cell.negatives) == (task, negatives) and wanted(r.cell)]
    if any(r.difference is None for r in found):
        return "failed"
    return f"{max(r.difference for r in found if r.difference is not None):.0e}" if found else ""


def reasons(refused: Sequence[Refused], task: str, negatives: int, strategy: str) -> str:
    found = {r.reasons for r in refused if (r.way.task, r.way.negatives, r.way.strategy) == (task, negatives, strategy)}
    return ", ".join(sorted(found))


def others(results: Sequence[Result]) -> list[str]:
    """Clipping, epochs, options of backends."""
    if not results:
        return []
    lines = [
        "## Clipping, two epochs, options of backends",
        "",
        f"Clipping: gradients after `trainer.max_grad_norm={CLIP}`, two batches a step. Two epochs: all their steps, on the batches that the sampler deals "
        "out to each process, the last one not full; compared with the same steps by hand. Options: two batches a step, plain and two_pass.",
        "",
        "| loss | negatives | what | backend | processes | difference |",
        "|---|---|---|---|---|---|",
    ]
    found: dict[tuple[str, ...], list[str]] = {}
    for r in results:
        what = "clipping" if r.cell.clip else "two epochs" if r.cell.epochs else "options"
        value = "failed" if r.difference is None else f"{r.difference:.0e}"
        key = (r.cell.task, str(r.cell.negatives), what, r.cell.backend, str(r.cell.processes))
        found.setdefault(key, []).append(value)
    lines += [f"| {' | '.join(key)} | {', '.join(dict.fromkeys(values))} |" for key, values in found.items()]
    return [*lines, ""]


def refusals(refused: Sequence[Refused], slowest: float, command: float) -> list[str]:
    """What `validate` says of all that is not in the tables."""
    lines = [
        "## Refused by `validate`",
        "",
        f"Everything else that can be written down, {len(refused)} combinations of loss, number of negatives, strategy and backend. Each was asked, and each "
        f"message names both keys; the slowest answer took {slowest:.1f} s of processor time, the whole command {command:.1f} s. The number of processes and of batches a "
        "step are never a reason.",
        "",
        "| | reason | keys | combinations | an example of the message |",
        "|---|---|---|---|---|",
    ]
    for name, (what, keys, why) in REASONS.items():
        found = [m for r in refused for m in r.messages if letter(m) == name]
        count = sum(name in r.reasons for r in refused)
        if found:
            lines.append(f"| {name} | {what}: {why} | {', '.join(f'`{k}`' for k in keys)} | {count} | {found[0].replace('|', '/')} |")
    lines += ["", "Losses by the numbers of hard negatives that they take (the others: d):", ""]
    for task in dict.fromkeys(r.way.task for r in refused if "d" in r.reasons):
        taken = [str(n) for n in NEGATIVES if n in TASKS[task].formats]
        lines.append(f"- {task}: {', '.join(taken)}")
    return [*lines, ""]
