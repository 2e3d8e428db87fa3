"""Learning-rate schedules as pure functions of the step, so that there is no state to save."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from stpipe.config.fields import option
from stpipe.config.registry import SCHEDULERS


@dataclass(frozen=True)
class Schedule(ABC):
    """A factor on every group's learning rate: from 0 to 1 over the warm-up, then as the schedule says."""

    warmup: float = option(0.1, ge=0, help="Warm-up: a share of all steps below 1, a number of steps from 1 on.")
    min_ratio: float = option(0.0, ge=0, le=1, help="Least factor after the warm-up.")

    def warmup_steps(self, num_steps: int) -> int:
        return math.ceil(self.warmup * num_steps) if self.warmup < 1 else int(self.warmup)

    def factor(self, step: int, num_steps: int) -> float:
        """Factor for optimiser step `step` (from 0) of `num_steps`."""
        warmup = self.warmup_steps(num_steps)
        if step < warmup:
            return step / warmup
        done = min((step - warmup) / max(num_steps - warmup, 1), 1.0)
        return self.min_ratio + (1 - self.min_ratio) * self.decay(done)

    @abstractmethod
    def decay(self, done: float) -> float:
        """Factor after the share `done` (0 to 1) of the steps that follow the warm-up."""


@SCHEDULERS.register("linear")
@dataclass(frozen=True)
class Linear(Schedule):
    """Straight down to min_ratio."""

    def decay(self, done: float) -> float:
        return 1 - done


@SCHEDULERS.register("cosine")
@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine down to min_ratio (arXiv:1608.03983 without restarts)."""

    def decay(self, done: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * done))


@SCHEDULERS.register("constant")
@dataclass(frozen=True)
class Constant(Schedule):
    """The full learning rate after the warm-up."""

    def decay(self, done: float) -> float:
        return 1.0
