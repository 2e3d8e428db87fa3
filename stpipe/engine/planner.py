"""Cut the texts of a batch into micro-batches of similar length under a token budget."""

from __future__ import annotations

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
    while len(parts) < min(at_least, total):
        widest = max(range(len(parts)), key=lambda i: parts[i].numel())
        half = (parts[widest].numel() + 1) // 2
        parts[widest : widest + 1] = [parts[widest][:half], parts[widest][half:]]
    return parts


def padding_share(lengths: Tensor, parts: list[Tensor], layout: str) -> float:
    """Share of the computed tokens that is padding; 0 for packed micro-batches."""
    if layout == "packed":
        return 0.0
    computed = sum(part.numel() * int(lengths[part].max()) for part in parts)
    return 1.0 - float(lengths.sum()) / computed
