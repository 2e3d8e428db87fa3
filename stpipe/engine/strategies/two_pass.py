"""GradCache: representations without a graph, the gradient of the loss on them, and the backbone once more for its own gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.registry import STRATEGIES
from stpipe.core.batch import Batch
from stpipe.core.context import StepContext
from stpipe.core.reps import Rep
from stpipe.core.result import LossOutput
from stpipe.engine.accumulation import Accumulation
from stpipe.engine.strategies.base import MicroBatch, Strategy
from stpipe.losses.base import Loss
from stpipe.models.encoder import Encoder

if TYPE_CHECKING:
    from stpipe.engine.train_module import TrainModule


@dataclass(frozen=True, slots=True)
class Replay:
    """Micro-batches to encode once more, each with the gradient of the loss on its representations, and whether by the twin."""

    parts: Sequence[tuple[MicroBatch, Rep, bool]]

    def __call__(self, module: TrainModule, batch: Batch, ctx: StepContext) -> Tensor:
        """0-d value whose gradient in the parameters is that of the loss through these texts."""
        return reduce(add, [surrogate(part.encode(module.network(twin=twin)), gradient) for part, gradient, twin in self.parts])


@STRATEGIES.register("two_pass")
@dataclass(frozen=True)
class TwoPass(Strategy):
    """GradCache: encode all texts without a graph, take the gradient of the loss on their representations, then encode each
    micro-batch again and carry its part of that gradient on into the model.

        dL/dw = gradient in w of sum over texts i of stopgrad(dL/dx_i) . x_i

    The same dropout in both passes. Memory of one micro-batch and of all representations with their gradients; nothing of a graph
    survives the first pass. Source: arXiv:2101.06983 section 3.2. Every micro-batch is a forward and a backward of its own,
    of which only the last one of a step exchanges gradients between processes. Parameters of the objective would get no
    gradient, so they are refused.
    """

    trains_objectives: ClassVar[bool] = False

    def check(self, module: nn.Module, loss: Loss, source: str) -> None:
        super().check(module, loss, source)
        own = [name for name, p in module.named_parameters() if p.requires_grad and not name.startswith(("encoder.", "twin."))]
        if own:
            raise ConfigError(
                Problem("strategy.name", f"two_pass does not train parameters of the objective, here {', '.join(own)}. Use recompute")
            )

    def run(self, step: Accumulation, batch: Batch, ctx: StepContext, *, last: bool) -> LossOutput:
        runtime, module = step.runtime, step.train_module
        with runtime.accumulating(last=False), torch.no_grad():
            reps: Mapping[str, Rep] = runtime.module(batch, ctx, type(module).encode)
        leaves = {role: leaf(rep) for role, rep in reps.items()}
        output = module.objective(batch, leaves, ctx)
        (output.sum * step.scale(output.count)).backward()
        rounds = self.rounds(module, batch, ctx, {role: gradient(rep) for role, rep in leaves.items()})
        for i, replay in enumerate(rounds):
            with runtime.accumulating(last=last and i == len(rounds) - 1):
                runtime.backward(runtime.module(batch, ctx, replay))
        return output.detach()

    def rounds(self, module: TrainModule, batch: Batch, ctx: StepContext, gradients: Mapping[str, Rep]) -> list[Replay]:
        """What each forward with a backward computes: one micro-batch, and at the end the last one of each route, so that every
        parameter of the batch takes part in the backward in which processes exchange gradients."""
        single: list[Replay] = []
        final: list[tuple[MicroBatch, Rep, bool]] = []
        for group in module.groups(batch):
            network = module.network(twin=group.twin)
            if not any(p.requires_grad for part in network.path_of(group.route) for p in part.parameters()):
                continue  # a frozen route
            whole = Rep.cat([gradients[name] for name in group.names])
            parts = self.micro_batches(
                network, group.tokens, ctx, module.outputs(batch, ctx), route=group.route, first=ctx.texts + group.first
            )
            left = len(group.tokens)
            cached = []
            for part in parts:
                left -= part.rows.numel()
                found = whole.rows(part.rows.to(whole.values.device))
                cached.append(
                    (part, found if left >= 0 else nothing(found), group.twin)
                )  # past all texts one is repeated for other processes
            single += [Replay([one]) for one in cached[:-1]]
            final.append(cached[-1])
        return [*single, Replay(final)] if final else []

    def encode_part(self, encoder: Encoder, part: MicroBatch) -> Rep:
        return part.encode(encoder)


def leaf(rep: Rep) -> Rep:
    """The same representation, from which gradients go no further."""

    def detached(x: Tensor) -> Tensor:
        return x.detach().requires_grad_(x.is_floating_point())

    return Rep(detached(rep.values), rep.mask, {name: detached(x) for name, x in rep.extras.items()})


def gradient(rep: Rep) -> Rep:
    """The gradients of a leaf, in its shapes; 0 where the loss did not look."""

    def found(x: Tensor) -> Tensor:
        return torch.zeros_like(x) if x.grad is None else x.grad

    return Rep(found(rep.values), None, {name: found(x) for name, x in rep.extras.items()})


def nothing(cached: Rep) -> Rep:
    """A gradient of 0 in the same shapes."""
    return Rep(torch.zeros_like(cached.values), None, {name: torch.zeros_like(x) for name, x in cached.extras.items()})


def surrogate(rep: Rep, cached: Rep) -> Tensor:
    """0-d sum of all outputs, each times its cached gradient."""
    pairs = [(rep.values, cached.values), *((rep.extras[name], cached.extras[name]) for name in rep.extras)]
    return reduce(add, [(x.float() * g.float()).sum() for x, g in pairs if x.requires_grad])
