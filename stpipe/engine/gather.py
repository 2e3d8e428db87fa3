"""The only collectives on representations, and the one convention for their gradient.

Every process computes its own anchors against the candidates of all processes; gathering carries gradient (the backward
adds up what all processes want of a row); nothing is multiplied by the number of processes. With gradients averaged
over processes that is the gradient of one process with the whole batch.

What a loss sees follows from its coupling. "row": the rows of this process, nothing is gathered. "anchor": its rows as anchors,
the rows of all processes as candidates. "batch": the rows of all processes as if they were its own. Every process then computes
the same value of the same rows, each counts them all, and their sum divided by the sum of their counts is that value again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stpipe.core.batch import Targets
from stpipe.core.reps import Column, Rep


class _GatherRows(torch.autograd.Function):
    """Concatenate the rows of all processes, whose numbers may differ."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.counts = counts
        parts = [rows.new_empty((n, *rows.shape[1:])) for n in counts]
        most = max(counts)
        padded = [rows.new_empty((most, *rows.shape[1:])) for _ in counts]
        own = rows.new_zeros((most, *rows.shape[1:]))
        own[: rows.shape[0]] = rows
        dist.all_gather(padded, own)
        for part, full in zip(parts, padded, strict=True):
            part.copy_(full[: part.shape[0]])
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous()
        dist.all_reduce(total)
        start = sum(ctx.counts[: dist.get_rank()])
        return total[start : start + ctx.counts[dist.get_rank()]], None


def world_size() -> int:
    """Processes of the gather group; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def largest(number: int, device: torch.device) -> int:
    """The largest of a number that each process has; a host sync with several processes."""
    if world_size() == 1:
        return number
    found = torch.tensor([number], device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found)


def row_counts(num_rows: int, device: torch.device) -> tuple[int, ...]:
    """Rows that each process holds. A host sync, needed because shapes depend on it."""
    if world_size() == 1:
        return (num_rows,)
    mine = torch.tensor([num_rows], device=device)
    counts = [torch.zeros_like(mine) for _ in range(world_size())]
    dist.all_gather(counts, mine)
    return tuple(int(c) for c in counts)


def gather_rows(rows: Tensor, counts: tuple[int, ...]) -> Tensor:
    """The rows (N, ...) of all processes in rank order, with gradient."""
    return rows if len(counts) == 1 else _GatherRows.apply(rows, counts)


def gather_column(rep: Rep, text_id: Tensor, counts: tuple[int, ...]) -> Column:
    """One role with the rows of the whole gather group."""
    if len(counts) == 1:
        return Column(rep, rep, text_id)
    mask = None if rep.mask is None else gather_rows(rep.mask, counts)
    extras = {k: gather_rows(v, counts) for k, v in rep.extras.items()}
    return Column(rep, Rep(gather_rows(rep.values, counts), mask, extras), gather_rows(text_id, counts))


def gather_targets(targets: Targets, counts: tuple[int, ...]) -> Targets:
    """The targets of all rows of the gather group, in the order of their rows."""
    if len(counts) == 1:
        return targets

    def whole(t: Tensor | None) -> Tensor | None:
        return None if t is None else gather_rows(t, counts)

    vectors = {role: gather_rows(v, counts) for role, v in targets.vectors.items()}
    if targets.scores is not None:  # lists are filled up to the longest of a process
        missing = largest(targets.scores.shape[1], targets.scores.device) - targets.scores.shape[1]
        targets = replace(targets, scores=torch.nn.functional.pad(targets.scores, (0, missing), value=float("nan")))
    return replace(targets, score=whole(targets.score), label=whole(targets.label), vectors=vectors, scores=whole(targets.scores))
