"""Everything that has parameters, as one module: the only thing handed to Accelerate, DDP, FSDP or DeepSpeed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from stpipe.core.batch import Batch
from stpipe.core.context import StepContext
from stpipe.core.reps import TWIN, Rep
from stpipe.core.result import LossOutput
from stpipe.core.tokens import Tokens
from stpipe.engine.objectives import Objectives, model_facts
from stpipe.engine.sparsity import SparsityController, controllers
from stpipe.engine.strategies.base import Strategy
from stpipe.engine.strategies.chunks import chunked
from stpipe.engine.views import View, by_twin, representations
from stpipe.losses.base import Loss
from stpipe.models.encoder import Encoder

#: Something else than its loss that the module computes of a batch, under the wrapper of the backend.
Task = Callable[["TrainModule", Batch, StepContext], Any]


@dataclass(frozen=True, slots=True)
class Group:
    """Texts of a batch that are encoded together: route through a Router, roles in their order, tokens of their texts laid end to end;
    first: number of texts in the groups before; twin: whether the model's twin encodes them."""

    route: str | None
    roles: tuple[str, ...]
    tokens: Tokens
    first: int
    twin: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What the representations of the roles are called."""
        return tuple(by_twin(role) for role in self.roles) if self.twin else self.roles


class TrainModule(nn.Module):
    """Encoder and objective. `forward` runs exactly once per backward, because wrappers attach their hooks to it.

    Where a loss asks for it, a twin of the encoder is trained beside it: a copy that starts from the same weights. It is in checkpoints
    as `twin`, and never part of the model that is saved.

    Args:
        encoder: texts -> representations.
        losses: data set name -> its objective; a batch comes from one data set.
        strategy: how batches are computed, or data set name -> how its batches are.
        routes: data set name -> role -> route through a Router, where it differs from Encoder.route_of.
        view: what the objective sees of a batch; it belongs to the kind of model (engine/views.py).
        seed: of the start values of what losses learn themselves.
    """

    def __init__(
        self,
        encoder: Encoder,
        losses: Mapping[str, Loss],
        strategy: Strategy | Mapping[str, Strategy],
        *,
        routes: Mapping[str, Mapping[str, str]] | None = None,
        view: View = representations,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.objectives = Objectives(losses, model_facts(encoder), seed=seed)
        self.losses = self.objectives.losses
        self.strategies = dict(strategy) if isinstance(strategy, Mapping) else dict.fromkeys(losses, strategy)
        self.routes = dict(routes or {})
        self.view = view
        self.controllers = controllers(self.losses.values())
        for name, loss in self.losses.items():
            self.strategies[name].check(self, loss, name)
        needed = (name for loss in self.losses.values() for name in loss.needs_teachers())
        self.twin = copy.deepcopy(encoder) if TWIN in needed else None
        self._computed = {name: chunked(loss, self.strategies[name].score_chunk) for name, loss in self.losses.items()}

    @property
    def skips_parameters(self) -> bool:
        """Whether a batch may leave parameters without a gradient: those of a route of a Router, or of the objective of another data set.
        Under DDP they have to be looked for (find_unused_parameters), or the next forward fails; filling in zeros would have the
        optimiser move them."""
        own = bool(self.objectives.learning) or self.twin is not None
        return bool(self.encoder.routes) or (len(self.losses) > 1 and own)

    def network(self, *, twin: bool) -> Encoder:
        """The encoder, or its twin."""
        if not twin:
            return self.encoder
        assert self.twin is not None  # made when a loss asks for it
        return self.twin

    def forward(self, batch: Batch, ctx: StepContext, task: Task | None = None) -> Any:
        """The loss of the batch, a LossOutput; with `task` what that gives."""
        return self.loss(batch, ctx) if task is None else task(self, batch, ctx)

    def loss(self, batch: Batch, ctx: StepContext) -> LossOutput:
        """Encode all texts of the batch and apply the objective."""
        return self.objective(batch, self.encode(batch, ctx), ctx)

    def objective(self, batch: Batch, reps: Mapping[str, Rep], ctx: StepContext) -> LossOutput:
        """Lay the representations out for the objective of the data set, gathered over processes, and apply it."""
        ctx = replace(self.objectives[batch.source].context(ctx), factors={name: c.factor() for name, c in self._controllers()})
        # The objective runs in fp32: softmax over thousands of candidates loses its small differences in half precision.
        with torch.autocast(batch.row.device.type, enabled=False):
            loss = self._computed[batch.source]
            return loss(self.view(batch, reps, loss.effective_coupling()), ctx)

    def encode(self, batch: Batch, ctx: StepContext) -> dict[str, Rep]:
        """Representations by role; those of a twin by `by_twin` of the role."""
        strategy, outputs = self.strategies[batch.source], self.outputs(batch, ctx)
        reps: dict[str, Rep] = {}
        for group in self.groups(batch):
            network = self.network(twin=group.twin)
            rep = strategy.encode(network, group.tokens, ctx, outputs, route=group.route, first=ctx.texts + group.first)
            start = 0
            for role, name in zip(group.roles, group.names, strict=True):
                stop = start + len(batch.columns[role].tokens)
                reps[name] = rep.rows(slice(start, stop))
                start = stop
        return {name: reps[name] for name in (*batch.columns, *map(by_twin, batch.columns)) if name in reps}

    def outputs(self, batch: Batch, ctx: StepContext) -> frozenset[str]:
        """Further outputs that the objective asks for."""
        return self.losses[batch.source].outputs(ctx)

    def groups(self, batch: Batch) -> list[Group]:
        """The texts that share micro-batches: those of all roles of a route, so that lengths mix well, unless the strategy keeps roles
        apart. Texts that a twin encodes, too, are in two groups."""
        own, loss, there = self.routes.get(batch.source), self.losses[batch.source], frozenset(batch.columns)
        joined = self.strategies[batch.source].joins_roles(self.encoder.layout, len(batch))
        together: dict[Any, list[str]] = {}
        for twin, wanted in ((False, loss.encoded(there)), (True, loss.encoded_by_twin(there))):
            for role in (r for r in batch.columns if r in wanted):
                route = self.encoder.route_of(role, own)
                together.setdefault((twin, route, None if joined else role), []).append(role)
        found: list[Group] = []
        first = 0  # there are never more micro-batches than texts
        for (twin, route, _), roles in together.items():
            tokens = Tokens.cat([batch.columns[r].tokens for r in roles])
            found.append(Group(route, tuple(roles), tokens, first, twin))
            first += len(tokens)
        return found

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
