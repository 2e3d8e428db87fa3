"""What a strategy is: how the representations of a batch, its loss and its gradients come about.

Every strategy gives the same gradients as every other. `plain`, `recompute` and `two_pass` cut the texts into the same
micro-batches and draw the dropout of each from (seed, step, micro-batch, rank), so they agree with dropout on, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.fields import option
from stpipe.config.registry import STRATEGIES
from stpipe.core.batch import Batch
from stpipe.core.context import StepContext
from stpipe.core.reps import Rep
from stpipe.core.result import LossOutput
from stpipe.core.tokens import Tokens
from stpipe.engine.accumulation import Accumulation
from stpipe.engine.gather import largest
from stpipe.engine.planner import computed_tokens, default_budget, plan_micro_batches
from stpipe.losses.base import Loss
from stpipe.models.encoder import Encoder


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The texts of one forward through the backbone.

    rows (N,) int64 on the CPU: their places among the texts that were planned; outputs: further outputs that the loss asks
    for; route: the way that all these texts take through a Router; seed: of the dropout.
    """

    rows: Tensor
    tokens: Tokens
    outputs: frozenset[str]
    route: str | None
    seed: int

    def encode(self, encoder: Encoder) -> Rep:
        """One forward whose dropout depends on the seed only. Nothing else in a run may rely on the global generator."""
        torch.manual_seed(self.seed)
        return encoder(self.tokens, self.outputs, self.route)


@dataclass(frozen=True, slots=True)
class Cost:
    """What computing a batch takes: forwards through the backbone, and tokens that it computes, padding included."""

    micro_batches: int
    tokens: int


@dataclass(frozen=True)
class Choice:
    """The strategy of one data set, and why it is that one."""

    strategy: Strategy
    reason: str


@dataclass(frozen=True)
class Situation:
    """What the choice for a data set goes by.

    batch: the costliest that may come; coupling: of the objective; layout, device_type: of the forwards; need: bytes of all its activations;
    room: bytes that activations may take; largest: maximum over processes, so that all choose alike; earlier: name of the strategy of the run
    that is continued. Only what is asked for is measured.
    """

    batch: Batch
    coupling: str
    layout: str
    device_type: str
    need: Callable[[], float]
    room: Callable[[], float]
    largest: Callable[[float], float]
    earlier: str | None = None


@dataclass(frozen=True)
class Strategy(ABC):
    """Computes the loss of a batch and its gradients.

    Class attributes: couplings of the losses that it can compute, and whether it trains parameters that losses have themselves;
    `validate` refuses others.
    """

    couplings: ClassVar[tuple[str, ...]] = ("row", "anchor", "batch")
    trains_objectives: ClassVar[bool] = True

    token_budget: int | None = option(
        None,
        ge=1,
        help="Most tokens of one forward through the backbone; None is 4,096 on a CPU and 32,768 on a GPU. Lower it when memory runs out.",
    )
    score_chunk: int | None = option(
        None,
        ge=1,
        help="Anchors of an in-batch loss whose scores are held at a time, computed again in the backward; None: as many as make 16 million scores.",
    )

    @property
    def name(self) -> str:
        """Registered name."""
        return STRATEGIES.name_of(type(self))

    def run(self, step: Accumulation, batch: Batch, ctx: StepContext, *, last: bool) -> LossOutput:
        """Loss of a batch; its gradients are added to those of the parameters.

        Args:
            step: the optimiser step that the batch belongs to.
            batch: on the device.
            ctx: of this batch.
            last: no other batch of this step follows, so gradients are exchanged between processes.
        """
        with step.runtime.accumulating(last=last):
            output: LossOutput = step.runtime.module(batch, ctx)
            step.backward(output)
        return output

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
        """Representations of all texts, in their order; arguments as for `micro_batches`."""
        parts = self.micro_batches(encoder, tokens, ctx, outputs, route=route, first=first)
        return in_order([self.encode_part(encoder, part) for part in parts], parts, len(tokens))

    def micro_batches(
        self,
        encoder: Encoder,
        tokens: Tokens,
        ctx: StepContext,
        outputs: frozenset[str] = frozenset(),
        *,
        route: str | None = None,
        first: int = 0,
    ) -> list[MicroBatch]:
        """The micro-batches of some texts, longest first; as many on every process, because sharded parameters make processes meet in
        each forward. A process that has too few texts for that computes one of its texts again at the end; it counts nowhere.

        Args:
            encoder: the model.
            tokens: the texts.
            ctx: of this step.
            outputs: further outputs that the loss asks for.
            route: the way that all these texts take through a Router.
            first: texts of this batch that came before, so that no micro-batch draws the dropout of another.
        """
        layout, device = encoder.layout, tokens.ids.device
        parts = self.plan(tokens.lengths, layout=layout, device_type=device.type)
        agreed = largest(len(parts), device)
        if agreed > len(parts):
            parts = self.plan(tokens.lengths, layout=layout, device_type=device.type, at_least=agreed)
            parts += [parts[-1][:1]] * (agreed - len(parts))
        return [MicroBatch(rows, tokens.rows(rows), outputs, route, ctx.forward_seed(first + i)) for i, rows in enumerate(parts)]

    def plan(self, lengths: Tensor, *, layout: str, device_type: str, at_least: int = 1) -> list[Tensor]:
        """Rows of each micro-batch."""
        return plan_micro_batches(lengths, budget=self.budget(device_type), layout=layout, at_least=at_least)

    def budget(self, device_type: str) -> int:
        """Most tokens of one forward."""
        return self.token_budget or default_budget(device_type)

    def joins_roles(self, layout: str, num_rows: int) -> bool:
        """Whether the texts of all roles share micro-batches, so that lengths mix well."""
        return True

    def cost(self, batch: Batch, *, layout: str, device_type: str) -> Cost:
        """What the forwards of a batch take."""
        lengths = torch.cat([c.tokens.lengths for c in batch.columns.values()])
        parts = self.plan(lengths, layout=layout, device_type=device_type)
        return Cost(len(parts), computed_tokens(lengths, parts, layout))

    def check(self, module: nn.Module, loss: Loss, source: str) -> None:
        """Refuse what would train something else than the loss.

        Args:
            module: all that is trained; the model is its `encoder`.
            loss: of a data set.
            source: name of the data set.

        Raises:
            ConfigError: the loss is coupled more tightly than this strategy can compute.
        """
        coupling = loss.effective_coupling()
        if coupling not in self.couplings:
            raise ConfigError(
                Problem(
                    "strategy.name",
                    f"'{self.name}' computes {'-, '.join(self.couplings)}-coupled losses only, but the loss of data set '{source}', "
                    f"{type(loss).__name__}, is {coupling}-coupled. Use recompute or plain",
                )
            )

    def choose(self, situation: Situation) -> Choice:
        """The strategy that a data set is computed with, and why."""
        return Choice(self, "as configured")

    @abstractmethod
    def encode_part(self, encoder: Encoder, part: MicroBatch) -> Rep:
        """Representations of one micro-batch."""


def in_order(reps: Sequence[Rep], parts: Sequence[MicroBatch], count: int) -> Rep:
    """The representations of all micro-batches as one, in the order of the `count` texts that were planned."""
    order = torch.cat([part.rows for part in parts])[:count]  # what was added for the sake of other processes stands at the end
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(count)
    return Rep.cat(reps).rows(inverse.to(reps[0].values.device))
