"""Everything that has parameters, as one module: the only thing handed to Accelerate, DDP, FSDP or DeepSpeed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from stpipe.core.batch import Batch
from stpipe.core.context import StepContext
from stpipe.core.reps import Rep, RepBatch
from stpipe.core.result import LossOutput
from stpipe.core.tokens import Tokens
from stpipe.engine.gather import gather_column, gather_rows, row_counts
from stpipe.engine.strategies import Strategy
from stpipe.losses.base import Loss
from stpipe.models.encoder import Encoder


class TrainModule(nn.Module):
    """Encoder and objective. `forward` runs exactly once per backward, because wrappers attach their hooks to it.

    Args:
        encoder: texts -> representations.
        losses: data set name -> its objective; a batch comes from one data set.
        strategy: how the representations of a batch are computed.
    """

    def __init__(self, encoder: Encoder, losses: Mapping[str, Loss], strategy: Strategy) -> None:
        super().__init__()
        self.encoder = encoder
        self.losses = dict(losses)
        self.strategy = strategy

    def forward(self, batch: Batch, ctx: StepContext) -> LossOutput:
        """Encode all texts of the batch, gather them over processes, apply the data set's objective."""
        loss = self.losses[batch.source]
        reps = self.encode(batch, ctx, loss.outputs(ctx))
        # The objective runs in fp32: softmax over thousands of candidates loses its small differences in half precision.
        with torch.autocast(batch.row.device.type, enabled=False):
            return loss(self._rep_batch(batch, reps), ctx)

    def encode(self, batch: Batch, ctx: StepContext, outputs: frozenset[str] = frozenset()) -> dict[str, Rep]:
        """Representations by role; texts of all roles share the micro-batches, so that lengths mix well."""
        roles = list(batch.columns)
        tokens = Tokens.cat([batch.columns[r].tokens for r in roles])
        rep = self.strategy.encode(self.encoder, tokens, ctx, outputs)
        reps, start = {}, 0
        for role in roles:
            stop = start + len(batch.columns[role].tokens)
            reps[role] = rep.rows(slice(start, stop))
            start = stop
        return reps

    @staticmethod
    def _rep_batch(batch: Batch, reps: Mapping[str, Rep]) -> RepBatch:
        counts = row_counts(len(batch), batch.row.device)
        columns = {role: gather_column(rep.map(torch.Tensor.float), batch.columns[role].text_id, counts) for role, rep in reps.items()}
        return RepBatch(columns, batch.row, gather_rows(batch.row, counts), batch.targets)
