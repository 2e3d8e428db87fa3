"""The score matrix of in-batch losses in pieces: anchors of one chunk at a time against the whole pool.

A batch of 16,384 pairs has 268 million scores, of which a softmax holds several copies; a chunk of 1,024 anchors holds 17 million.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.utils.checkpoint import checkpoint

from stpipe.config.fields import option
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.result import LossOutput
from stpipe.losses.base import Loss

#: Scores that are held at once when no chunk size is given: 64 MB in float32, and a few copies. Smaller batches stay whole.
SCORES = 1 << 24


@dataclass(frozen=True)
class Chunked(Loss):
    """An anchor-coupled loss, chunk by chunk: the same sum and gradients. Several chunks are computed again in the backward.

    size: anchors of a chunk; None: as many as make SCORES scores.
    """

    coupling: ClassVar[str] = "inherit"
    wraps: ClassVar[tuple[str, ...]] = ("loss",)

    loss: Loss = option(help="The loss.", component="loss")
    size: int | None = option(None, help="Anchors of a chunk.")

    def __call__(self, batch: RepBatch, ctx: StepContext) -> LossOutput:
        candidates = batch.row_all.numel() * max(len(batch.columns) - 1, 1)
        size = self.size or max(SCORES // candidates, 1)
        if size >= len(batch):
            return self.loss(batch, ctx)
        parts = torch.arange(len(batch), device=batch.row.device).split(size)
        outputs = [checkpoint(self._part, batch, rows, ctx, use_reentrant=False, preserve_rng_state=False) for rows in parts]
        return LossOutput.merge(outputs, [rows.numel() for rows in parts])

    def _part(self, batch: RepBatch, rows: torch.Tensor, ctx: StepContext) -> LossOutput:
        return self.loss(batch.anchors(rows), ctx)


def chunked(loss: Loss, size: int | None) -> Loss:
    """The loss with every anchor-coupled formula in it in chunks. What wraps it (prefixes, regularisers) stays whole and is taken once."""
    if not loss.inner():
        return Chunked(loss, size) if loss.coupling == "anchor" else loss
    return loss.map_inner(lambda inner: chunked(inner, size))
