"""How long a run is, and at which steps it evaluates and saves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stpipe.config.sections import TrainerSection


def interval(value: float | None, num_steps: int) -> int | None:
    """Steps between events: a share of all steps below 1, a number from 1 on."""
    if value is None:
        return None
    return max(1, round(value * num_steps)) if value < 1 else int(value)


@dataclass(frozen=True)
class RunLength:
    """Steps and batches of a run. Batches are numbered through all epochs; step s takes the next `accumulation` of them."""

    num_steps: int
    num_batches: int
    accumulation: int
    eval_every: int | None
    save_every: int

    @staticmethod
    def of(settings: TrainerSection, batches_per_epoch: int) -> RunLength:
        """Length that the trainer section asks for."""
        accumulation = settings.accumulation_steps
        if settings.max_steps is not None:
            num_steps = settings.max_steps
            num_batches = num_steps * accumulation
        else:
            num_batches = max(1, round(settings.num_epochs * batches_per_epoch))
            num_steps = math.ceil(num_batches / accumulation)
        eval_every = interval(settings.eval_steps, num_steps)
        save_every = interval(settings.save_steps, num_steps) or eval_every or max(1, math.ceil(num_steps / 5))
        return RunLength(num_steps, num_batches, accumulation, eval_every, save_every)

    def batches_done(self, step: int) -> int:
        """Batches consumed after `step` steps: the position of the data, by value."""
        return min(step * self.accumulation, self.num_batches)

    def batches_of(self, step: int) -> int:
        """Batches of step `step` (from 0); the last step may have fewer."""
        return self.batches_done(step + 1) - self.batches_done(step)

    def evaluates_at(self, step: int, *, last: bool, has_best: bool) -> bool:
        """Whether to evaluate after `step` steps. The end is evaluated by the stage after training, unless the
        best metric must be compared there too."""
        if last:
            return has_best
        return self.eval_every is not None and step % self.eval_every == 0

    def saves_at(self, step: int) -> bool:
        return step % self.save_every == 0
