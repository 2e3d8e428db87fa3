"""Sparsity during training: weights that are steered to a number of active terms, and a watch over what goes wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from stpipe.config.errors import TrainingError
from stpipe.losses.base import Loss, merge_targets

#: Gains of the controller, per unit of the smoothed log(active / target). Two sorts of plant set them. In the slow one, the log of active
#: terms follows the log of the weight with gain -0.3 to -1 and a lag of 10 to 20 steps, also 3 steps late: from up to 20 times the target,
#: it is within 10 % after 130 steps at most, and passes it by 5 % at most. The nervous one is a SPLADE model under Adam: its terms come
#: and go at a speed that the learning rate bounds, with the lag of the momentum, towards an end that is up to 4 times as sensitive; within
#: 10 % after 155 steps, at the least 0.55 of the target on the way. Gains for the first alone make the second swing for ever.
#: PROPORTIONAL: damping, it holds back a weight that already works.
PROPORTIONAL = 1.5
#: INTEGRAL: what a step adds while terms are too many, and so what removes the last error. Lower it when the number of terms swings around
#: its target (high learning rates), raise it when it creeps towards it.
INTEGRAL = 0.09
#: DERIVATIVE: looks about DERIVATIVE / PROPORTIONAL steps ahead, against the lag of the momentum.
DERIVATIVE = 6.0
#: Errors count as at most this in the integral, so that far from the target the weight rises at a steady pace.
LARGEST_ERROR = 1.25
#: Share of the old value in the running mean of log(active / target) at a step: averages over about five batches.
SMOOTHING = 0.8
#: Each time the running mean passes from one side of the target to the other, both times by more than CROSSING, all gains are
#: multiplied by CALMING, down to LEAST_GAIN: a model that is more sensitive than thought, or noisy batches, end in smaller moves.
CROSSING, CALMING, LEAST_GAIN = 0.05, 0.6, 0.25
#: They grow by RECOVERY a step, up to 1 again, while the running mean is farther from the target than FAR, more than noise explains.
FAR, RECOVERY = 0.25, 1.015
#: The log-factor moves at most so far in one step, whatever a batch says.
LARGEST_CHANGE = 0.5
#: Bound of the log-factor: a weight is steered within a factor of 10,000 of the one given. Nothing accumulates beyond it.
LARGEST_LOG_FACTOR = math.log(1e4)
#: Fewer active terms count as so many, so that a text without any is finite.
LEAST_ACTIVE = 0.01

#: Steps between looks at the same batch without dropout (a third of a step's work each), and the share of the old value in their mean.
CORRECT_EVERY, CORRECTION_SMOOTHING = 10, 0.5

STATE = ("log_factor", "level", "move", "gain", "side", "started", "offset", "corrected")


class SparsityController(nn.Module):
    """Multiplier of a regulariser's weight that brings one metric to a target.

    A PID controller in log space and velocity form: with e the running mean of log(active / target) and v its last change,

        log f <- log f + clip(g * (PROPORTIONAL * v + INTEGRAL * clip(e, LARGEST_ERROR) + DERIVATIVE * (v - v before)), LARGEST_CHANGE)

    within LARGEST_LOG_FACTOR, where g falls from 1 each time that e crosses 0. The integral is the factor itself, so that bounds leave
    nothing to unwind. State is in fp32 buffers: saved and resumed with the module that holds it, and equal on all
    processes that observe the same values. Nothing is read back to the host.

    A target is meant for the model in use, without dropout, which has fewer terms than in training (a fifth fewer with 0.1). `correct`
    takes what both give for one batch, and the difference is added to what is observed.

    Args:
        target: mean number of active terms a text to reach.
    """

    log_factor: Tensor
    level: Tensor
    move: Tensor
    gain: Tensor
    side: Tensor
    started: Tensor
    offset: Tensor
    corrected: Tensor

    def __init__(self, target: float) -> None:
        super().__init__()
        self.target = float(target)
        for name in STATE:
            self.register_buffer(name, torch.full((), float(name == "gain"), dtype=torch.float32))

    def factor(self) -> Tensor:
        """0-d multiplier for the next step; 1 before anything was observed."""
        return self.log_factor.exp()

    @torch.no_grad()
    def observe(self, active: Tensor) -> None:
        """Take the metric of a step, after the optimiser's; 0-d, already averaged over processes. Values that are no number do nothing."""
        error = (active.detach().to(self.level).clamp(min=LEAST_ACTIVE) / self.target).log() + self.offset
        started = self.started > 0
        level = torch.where(started, SMOOTHING * self.level + (1 - SMOOTHING) * error, error)
        move = torch.where(started, level - self.level, 0)
        side = torch.where(level.abs() > CROSSING, level.sign(), self.side)
        gain = torch.where(level.abs() > FAR, (self.gain * RECOVERY).clamp(max=1), self.gain)
        gain = torch.where(side * self.side < 0, (gain * CALMING).clamp(min=LEAST_GAIN), gain)
        change = PROPORTIONAL * move + INTEGRAL * level.clamp(-LARGEST_ERROR, LARGEST_ERROR) + DERIVATIVE * (move - self.move)
        log_factor = self.log_factor + (gain * change).clamp(-LARGEST_CHANGE, LARGEST_CHANGE)
        new = {
            "log_factor": log_factor.clamp(-LARGEST_LOG_FACTOR, LARGEST_LOG_FACTOR),
            "level": level,
            "move": move,
            "gain": gain,
            "side": side,
            "started": torch.ones_like(self.started),
        }
        self._take(new, torch.isfinite(error))

    @torch.no_grad()
    def correct(self, active: Tensor, in_training: Tensor) -> None:
        """Take the metric of one batch without dropout and as it is trained; 0-d, already averaged over processes."""
        both = [v.detach().to(self.level).clamp(min=LEAST_ACTIVE).log() for v in (active, in_training)]
        found = both[0] - both[1]
        mean = CORRECTION_SMOOTHING * self.offset + (1 - CORRECTION_SMOOTHING) * found
        new = {"offset": torch.where(self.corrected > 0, mean, found), "corrected": torch.ones_like(self.corrected)}
        self._take(new, torch.isfinite(found))

    def _take(self, new: Mapping[str, Tensor], usable: Tensor) -> None:
        for name, value in new.items():
            old = getattr(self, name)
            old.copy_(torch.where(usable, value, old))

    def extra_repr(self) -> str:
        return f"target={self.target:g}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SparsityController:
        """Moves to devices, keeps fp32: in half precision a change of a factor by a percent would be rounded away."""
        for name in STATE:
            setattr(self, name, getattr(self, name).to(fn(getattr(self, name)).device))
        return self


def controllers(losses: Iterable[Loss]) -> nn.ModuleDict:
    """Metric -> controller for every target of a run's losses; two losses with different targets for a metric are refused."""
    return nn.ModuleDict({name: SparsityController(target) for name, target in merge_targets(loss.targets() for loss in losses).items()})


#: A representation with fewer active terms than this on average has collapsed.
COLLAPSED = 1.0
#: Logs in a row that must say so, or the steps that such logs are means over; and the steps that are given to the start.
COLLAPSED_LOGS, COLLAPSED_STEPS, COLLAPSE_AFTER = 3, 30, 10
#: Share of the vocabulary above which a representation is not sparse.
SATURATED_SHARE = 0.2
#: Steps between which saturation is judged (later when the second log is later), and the share of the first logged value below which
#: it counts as falling.
SATURATION_AFTER, SATURATION_UNTIL, FALLING = 50, 200, 0.9


@dataclass
class SideState:
    """What the guard remembers of queries or documents: collapsed logs in a row and the steps that they cover, how many logs there
    were, and the first value."""

    collapsed: int = 0
    collapsed_steps: int = 0
    logs: int = 0
    first: float | None = None

    def take(self, active: float, *, step: int, steps: int) -> None:
        """The value of a log, which is the mean over so many steps."""
        self.first = active if self.first is None else self.first
        self.logs += 1
        collapsed = active < COLLAPSED and step >= COLLAPSE_AFTER
        self.collapsed = self.collapsed + 1 if collapsed else 0
        self.collapsed_steps = self.collapsed_steps + steps if collapsed else 0

    @property
    def has_collapsed(self) -> bool:
        """Whether logs have said so for long enough."""
        return self.collapsed >= COLLAPSED_LOGS or self.collapsed_steps >= COLLAPSED_STEPS

    def is_saturated(self, active: float, *, step: int, vocabulary: int) -> bool:
        """Whether the value of the last log is neither sparse nor on its way there, as far as that can be told already."""
        judged = step >= SATURATION_AFTER and (self.logs == 2 or (self.logs > 2 and step <= SATURATION_UNTIL))
        return judged and self.first is not None and active > max(SATURATED_SHARE * vocabulary, FALLING * self.first)


@dataclass
class SparsityGuard:
    """Finds representations that have collapsed (an error) or do not become sparse (one warning), from logged values."""

    queries: SideState = field(default_factory=SideState)
    documents: SideState = field(default_factory=SideState)
    warned: bool = False
    last: int = 0
    """Step of the last log."""

    def observe(self, step: int, query_active: float | None, document_active: float | None, vocabulary: int) -> str | None:
        """Take the values of one log.

        Args:
            step: optimiser steps done.
            query_active, document_active: mean number of active terms a text; None when the batch has no such texts.
            vocabulary: width of a representation.

        Returns:
            A warning, once in a run, or None.

        Raises:
            TrainingError: when queries or documents have collapsed.
        """
        warnings = []
        steps, self.last = max(step - self.last, 0), step
        for name, side, active in (("query", self.queries, query_active), ("document", self.documents, document_active)):
            if active is None:
                continue
            side.take(active, step=step, steps=steps)
            if side.has_collapsed:
                raise TrainingError(collapse_message(name, active, steps=side.collapsed_steps, step=step, vocabulary=vocabulary))
            if side.is_saturated(active, step=step, vocabulary=vocabulary):
                warnings.append(saturation_message(name, active, first=side.first or active, step=step, vocabulary=vocabulary))
        if self.warned or not warnings:
            return None
        self.warned = True
        return " ".join(warnings)

    def state_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what state_dict gave; nothing when it is empty."""
        if state:
            self.queries, self.documents = SideState(**state["queries"]), SideState(**state["documents"])
            self.warned, self.last = bool(state["warned"]), int(state.get("last", 0))


def collapse_message(side: str, active: float, *, steps: int, step: int, vocabulary: int) -> str:
    """Why training ends, and what to change."""
    plural = {"query": "queries", "document": "documents"}[side]
    return (
        f"the {plural} have collapsed: {active:.2f} of {vocabulary:,} terms are active in a {side} on average, below {COLLAPSED:g} in all "
        f"logs of the last {steps} steps (step {step}). A term that is 0 in every text gets no gradient, so they will not come back. Start "
        f"again with a smaller loss.{side}_weight (a tenth), a longer warm-up (loss.schedule=quadratic, loss.warmup) or a lower optimizer.lr; "
        f"loss.{side}_active_dims=N steers the weight to N active terms"
    )


def saturation_message(side: str, active: float, *, first: float, step: int, vocabulary: int) -> str:
    """What is not becoming sparse, and what to change."""
    return (
        f"{active:,.0f} of {vocabulary:,} terms are active in a {side} on average at step {step}, and that is not falling ({first:,.0f} in the "
        f"first log). Raise loss.{side}_weight (tenfold), shorten loss.warmup (the weight rises from 0 over it; see {side}_weight in the "
        f"log), or set loss.{side}_active_dims."
    )
