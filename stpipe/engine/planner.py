"""Cut the texts of a batch into micro-batches of similar length under a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Tokens of one micro-batch when `strategy.token_budget` is not set. On a CPU larger ones fall out of the caches and are
#: slower (recipes/LOG.md); a GPU wants enough work for one launch.
DEFAULT_BUDGET = {"cpu": 4096}
DEFAULT_BUDGET_ACCELERATOR = 32768


def default_budget(device_type: str) -> int:
    """Token budget of a micro-batch on this kind of device."""
    return DEFAULT_BUDGET.get(device_type, DEFAULT_BUDGET_ACCELERATOR)


def plan_micro_batches(lengths: Tensor, *, budget: int, layout: str, at_least: int = 1) -> list[Tensor]:
    """Rows of each micro-batch, longest texts first.

    Args:
        lengths: (N,) int64 on the CPU, tokens of each text.
        budget: most tokens of one micro-batch; a text that is longer stands alone.
        layout: "packed" counts the tokens, "padded" the whole rectangle (texts x longest).
        at_least: split further until there are so many parts (processes whose parameters are sharded must run the same
            number of forwards); there can never be more parts than texts.

    Returns:
        Index tensors (int64, on the CPU) that together hold every row exactly once.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    size = lengths[order]
    parts: list[Tensor] = []
    start, total = 0, order.numel()
    ends = size.cumsum(0)
    while start < total:
        if layout == "packed":
            used = int(ends[start - 1]) if start else 0
            stop = int(torch.searchsorted(ends, used + budget, right=True))
        else:
            stop = start + budget // max(int(size[start]), 1)
        stop = min(max(stop, start + 1), total)
        parts.append(order[start:stop])
        start = stop
    return split_further(parts, at_least)


def split_further(parts: list[Tensor], at_least: int) -> list[Tensor]:
    """Halve the largest parts until there are so many, or each has one row."""
    parts = list(parts)
    while len(parts) < min(at_least, sum(part.numel() for part in parts)):
        widest = max(range(len(parts)), key=lambda i: parts[i].numel())
        half = (parts[widest].numel() + 1) // 2
        parts[widest : widest + 1] = [parts[widest][:half], parts[widest][half:]]
    return parts


@dataclass(frozen=True, slots=True)
class RowSizes:
    """The texts of one role by row, (B,) int64 on the CPU each: how many, their tokens together, the longest one."""

    texts: Tensor
    tokens: Tensor
    longest: Tensor

    @staticmethod
    def of(lengths: Tensor, counts: Tensor | None) -> RowSizes:
        """From the lengths (N,) of all texts; counts (B,): texts of each row, None when each has one."""
        if counts is None:
            return RowSizes(torch.ones_like(lengths), lengths, lengths)
        row = torch.repeat_interleave(torch.arange(counts.numel()), counts)
        zeros = torch.zeros_like(counts)
        return RowSizes(counts, zeros.index_add(0, row, lengths), zeros.scatter_reduce(0, row, lengths, "amax"))


def plan_rows(sizes: Sequence[RowSizes], *, budget: int, layout: str, at_least: int = 1) -> list[Tensor]:
    """Rows of each part of a batch, the parts of the largest rows first, so that all texts of a part's rows are within the budget together.

    Args:
        sizes: of each role.
        budget: most tokens of one part; a row that is larger stands alone.
        layout: "packed" counts the tokens, "padded" a rectangle for each role.
        at_least: as in plan_micro_batches.

    Returns:
        Index tensors (int64, on the CPU, ascending) that together hold every row exactly once.
    """
    if layout == "packed":
        tokens = torch.stack([s.tokens for s in sizes]).sum(0)
        return [part.sort().values for part in plan_micro_batches(tokens, budget=budget, layout=layout, at_least=at_least)]
    order = torch.argsort(torch.stack([s.texts * s.longest for s in sizes]).sum(0), descending=True, stable=True)
    shapes = torch.stack([torch.stack([s.texts, s.longest]) for s in sizes])[:, :, order].permute(2, 0, 1).tolist()
    parts: list[Tensor] = []
    start, texts, longest = 0, [0] * len(sizes), [0] * len(sizes)
    for i, row in enumerate(shapes):
        more = [n + new for n, (new, _) in zip(texts, row, strict=True)]
        reach = [max(n, new) for n, (_, new) in zip(longest, row, strict=True)]
        if i > start and sum(n * length for n, length in zip(more, reach, strict=True)) > budget:
            parts.append(order[start:i])
            start, more, reach = i, [n for n, _ in row], [n for _, n in row]
        texts, longest = more, reach
    if start < order.numel():
        parts.append(order[start:])
    return [part.sort().values for part in split_further(parts, at_least)]


def computed_tokens(lengths: Tensor, parts: list[Tensor], layout: str) -> int:
    """Tokens that micro-batches compute: those of their texts when packed, whole rectangles when padded."""
    if layout == "packed":
        return int(lengths.sum())
    return sum(part.numel() * int(lengths[part].max()) for part in parts)


def padding_share(lengths: Tensor, parts: list[Tensor], layout: str) -> float:
    """Share of the computed tokens that is padding; 0 for packed micro-batches."""
    return 1.0 - float(lengths.sum()) / computed_tokens(lengths, parts, layout)
