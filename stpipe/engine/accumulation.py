"""The gradients of one optimiser step, which may come from several batches, each in several parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from stpipe.core.result import LossOutput
from stpipe.engine.backends import Runtime

if TYPE_CHECKING:
    from stpipe.engine.train_module import TrainModule


class Accumulation:
    """Divides the sums of all parts of a step by one number, so that uneven parts are weighted right.

    Later parts are not counted yet when the first backward runs. So all are divided by what the first one counts, brought up to a whole
    batch, and `rescale` brings the gradients to the count of all in the end.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._divisor: Tensor | None = None
        self._total: Tensor | None = None
        self._exact = False

    @property
    def train_module(self) -> TrainModule:
        """The module without the backend's wrapper."""
        module: TrainModule = self.runtime.unwrapped  # type: ignore[assignment]
        return module

    def backward(self, output: LossOutput, *, share: float = 1.0) -> None:
        """Add the gradients of a part; share: of a batch that it is, about, and the same on all processes."""
        self.runtime.backward(output.sum * self.scale(output.count, share=share))

    def scale(self, count: Tensor, *, share: float = 1.0) -> Tensor:
        """0-d factor of a part's sum. Gradients are averaged over processes, which their number undoes."""
        count = self.runtime.total(count)
        self._exact = self._divisor is None and share == 1.0
        if self._divisor is None:
            self._divisor = count.clamp(min=1) / share
        self._total = count if self._total is None else self._total + count
        return self.runtime.world_size / self._divisor

    @property
    def rescale(self) -> Tensor | None:
        """0-d factor that brings the gradients to the mean over all that was counted; None when they are there already."""
        assert self._divisor is not None and self._total is not None, "no part of this step has been computed"
        return None if self._exact else self._divisor / self._total.clamp(min=1)
