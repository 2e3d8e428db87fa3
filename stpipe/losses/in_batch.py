"""What losses with in-batch negatives share: the candidates of every anchor, and which of them are known to be positives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stpipe.core.reps import Pool, RepBatch
from stpipe.ops import masks


@dataclass(frozen=True, slots=True)
class InBatch:
    """The anchors of this process against the candidates of all processes.

    own (B,) int64: place of each anchor's row among the M rows, and so of its positive in the pool, which starts with the
    M positives; own_row (B, M) bool; related (B, M) bool: other rows with the anchor's own anchor text or own positive text, so
    their pair holds for it too (none without mask_duplicates).
    """

    batch: RepBatch
    pool: Pool
    own: Tensor
    own_row: Tensor
    related: Tensor
    mask_duplicates: bool

    @staticmethod
    def of(batch: RepBatch, *, mask_duplicates: bool) -> InBatch:
        own_row = masks.own_row(batch.row, batch.row_all)
        own = masks.place(own_row)
        related = torch.zeros_like(own_row)
        if mask_duplicates:
            ids = [batch.columns[role].text_id for role in ("anchor", "positive")]
            related = torch.stack([masks.same(i[own], i) for i in ids]).any(0) & ~masks.one_place(own, len(batch.row_all))
        return InBatch(batch, batch.pool(), own, own_row, related, mask_duplicates)

    def own_positive(self) -> Tensor:
        """(B, P) bool: the positive that came with the anchor."""
        return masks.one_place(self.own, len(self.pool.row))

    def known_docs(self) -> Tensor:
        """(B, P) bool: candidates that are positives of the anchor, other than its own: by text, or by their row."""
        num_docs = len(self.pool.row)
        if not self.mask_duplicates:
            return torch.zeros(len(self.own), num_docs, dtype=torch.bool, device=self.own.device)
        text = masks.same(self.pool.text_id[self.own], self.pool.text_id)
        related = self.related.repeat(1, num_docs // len(self.batch.row_all)) & self.pool.is_positive
        return (text | related) & ~self.own_positive()
