"""Everything that has parameters, as one module: the only thing handed to Accelerate, DDP, FSDP or DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from stpipe.core.batch import Batch
from stpipe.core.context import StepContext
from stpipe.core.reps import Rep, RepBatch
from stpipe.core.result import LossOutput
from stpipe.core.tokens import Tokens
from stpipe.engine.gather import gather_column, gather_rows, row_counts
from stpipe.engine.sparsity import SparsityController, controllers
from stpipe.engine.strategies import Strategy
from stpipe.losses.base import Loss
from stpipe.models.encoder import Encoder


class TrainModule(nn.Module):
    """Encoder and objective. `forward` runs exactly once per backward, because wrappers attach their hooks to it.

    Args:
        encoder: texts -> representations.
        losses: data set name -> its objective; a batch comes from one data set.
        strategy: how the representations of a batch are computed.
        routes: data set name -> role -> route through a Router, where it differs from Encoder.route_of.
    """

    def __init__(
        self, encoder: Encoder, losses: Mapping[str, Loss], strategy: Strategy, *, routes: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.losses = dict(losses)
        self.strategy = strategy
        self.routes = dict(routes or {})
        self.controllers = controllers(self.losses.values())

    def forward(self, batch: Batch, ctx: StepContext) -> LossOutput:
        """Encode all texts of the batch, gather them over processes, apply the data set's objective."""
        loss = self.losses[batch.source]
        reps = self.encode(batch, ctx, loss.outputs(ctx))
        ctx = replace(ctx, factors={name: control.factor() for name, control in self._controllers()})
        # The objective runs in fp32: softmax over thousands of candidates loses its small differences in half precision.
        with torch.autocast(batch.row.device.type, enabled=False):
            return loss(self._rep_batch(batch, reps), ctx)

    def encode(self, batch: Batch, ctx: StepContext, outputs: frozenset[str] = frozenset()) -> dict[str, Rep]:
        """Representations by role; texts of all roles of a route share the micro-batches, so that lengths mix well."""
        own = self.routes.get(batch.source)
        routes: dict[str | None, list[str]] = {}
        for role in batch.columns:
            routes.setdefault(self.encoder.route_of(role, own), []).append(role)
        reps: dict[str, Rep] = {}
        done = 0
        for route, roles in routes.items():
            tokens = Tokens.cat([batch.columns[r].tokens for r in roles])
            rep = self.strategy.encode(self.encoder, tokens, ctx, outputs, route=route, first=done)
            done += len(tokens)  # there are never more micro-batches than texts
            start = 0
            for role in roles:
                stop = start + len(batch.columns[role].tokens)
                reps[role] = rep.rows(slice(start, stop))
                start = stop
        return {role: reps[role] for role in batch.columns}

    def advance(
        self, values: Mapping[str, Tensor], *, mean: Callable[[Tensor], Tensor], maximum: Callable[[Tensor], Tensor] | None
    ) -> None:
        """Take note of a finished optimiser step: what is steered, and counters of the model that follow the steps.

        Args:
            values: metrics of the step on this process.
            mean: average of a 0-d tensor over processes.
            maximum: elementwise maximum of a tensor over processes; None with one process.
        """
        for name, control in self._controllers():
            if name in values:
                control.observe(mean(values[name]))
        for module in self.encoder.parts():
            module.advance(maximum)

    def correct(self, values: Mapping[str, Tensor], in_training: Mapping[str, Tensor], *, mean: Callable[[Tensor], Tensor]) -> None:
        """Tell the controllers what a batch's metrics are without dropout (`values`), and what they were as it was trained."""
        for name, control in self._controllers():
            if name in values and name in in_training:
                control.correct(mean(values[name]), mean(in_training[name]))

    def forget(self) -> None:
        """Drop what forwards have noted for the next `advance`: after forwards that belong to no step."""
        for module in self.encoder.parts():
            module.forget()

    def _controllers(self) -> list[tuple[str, SparsityController]]:
        return list(self.controllers.items())  # type: ignore[arg-type]

    @staticmethod
    def _rep_batch(batch: Batch, reps: Mapping[str, Rep]) -> RepBatch:
        counts = row_counts(len(batch), batch.row.device)
        columns = {role: gather_column(rep.map(torch.Tensor.float), batch.columns[role].text_id, counts) for role, rep in reps.items()}
        return RepBatch(columns, batch.row, gather_rows(batch.row, counts), batch.targets)
