"""The strategy for losses whose rows need nothing of each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from stpipe.config.registry import STRATEGIES
from stpipe.core.batch import Batch
from stpipe.core.context import StepContext
from stpipe.core.reps import Rep
from stpipe.core.result import LossOutput
from stpipe.core.tokens import Tokens
from stpipe.engine.accumulation import Accumulation
from stpipe.engine.gather import largest
from stpipe.engine.planner import RowSizes, computed_tokens, plan_rows
from stpipe.engine.strategies.base import Cost, MicroBatch, Strategy, in_order
from stpipe.engine.strategies.single_graph import again_in_backward
from stpipe.models.encoder import Encoder


@STRATEGIES.register("micro")
@dataclass(frozen=True)
class Micro(Strategy):
    """Whole rows in parts under the token budget, a forward and a backward for each. For losses that look at one row at a time.

    The memory of one micro-batch, without the second forward of recompute. All parts are divided by the same number, so the
    gradients are those of the whole batch. Dropout is drawn for each part: with it on, a batch of several parts has the
    gradients of `plain` on these parts one after the other, not those of `plain` on the batch at once. A row that is larger than the
    budget (a list of 512 documents) is computed with recompute.
    """

    couplings: ClassVar[tuple[str, ...]] = ("row",)

    def run(self, step: Accumulation, batch: Batch, ctx: StepContext, *, last: bool) -> LossOutput:
        runtime, device = step.runtime, batch.row.device
        layout = step.train_module.encoder.layout
        parts = self.parts(batch, layout=layout, device_type=device.type)
        agreed = largest(len(parts), device)  # processes meet in each forward and backward
        if agreed > len(parts):
            parts = self.parts(batch, layout=layout, device_type=device.type, at_least=agreed)
        outputs: list[LossOutput] = []
        texts = ctx.texts
        for i in range(agreed):
            part = batch.rows(parts[i] if i < len(parts) else parts[-1][:1])
            with runtime.accumulating(last=last and i == agreed - 1):
                output: LossOutput = runtime.module(part, replace(ctx, texts=texts))
                # A process that has no row left computes one again, for nothing.
                step.backward(output if i < len(parts) else output.scaled(0.0), share=1 / agreed)
            if i < len(parts):
                outputs.append(output.detach())
            texts += sum(len(column.tokens) for column in part.columns.values())
        return LossOutput.merge(outputs, [rows.numel() for rows in parts])

    def parts(self, batch: Batch, *, layout: str, device_type: str, at_least: int = 1) -> list[Tensor]:
        """Rows of each part."""
        sizes = [RowSizes.of(column.tokens.lengths, column.counts) for column in batch.columns.values()]
        return plan_rows(sizes, budget=self.budget(device_type), layout=layout, at_least=at_least)

    def joins_roles(self, layout: str, num_rows: int) -> bool:
        return layout == "packed" or num_rows == 1  # a part was planned as one rectangle a role

    def cost(self, batch: Batch, *, layout: str, device_type: str) -> Cost:
        forwards = tokens = 0
        for rows in self.parts(batch, layout=layout, device_type=device_type):
            lengths = [column.rows(rows).tokens.lengths for column in batch.columns.values()]
            for group in [torch.cat(lengths)] if self.joins_roles(layout, rows.numel()) else lengths:
                plan = self.plan(group, layout=layout, device_type=device_type)
                forwards += len(plan)
                tokens += computed_tokens(group, plan, layout)
        return Cost(forwards, tokens)

    def encode(
        self,
        encoder: Encoder,
        tokens: Tokens,
        ctx: StepContext,
        outputs: frozenset[str] = frozenset(),
        *,
        route: str | None = None,
        first: int = 0,
    ) -> Rep:
        parts = self.micro_batches(encoder, tokens, ctx, outputs, route=route, first=first)
        if len(parts) == 1:
            return in_order([self.encode_part(encoder, parts[0])], parts, len(tokens))
        return in_order([again_in_backward(encoder, part) for part in parts], parts, len(tokens))

    def encode_part(self, encoder: Encoder, part: MicroBatch) -> Rep:
        return part.encode(encoder)
