"""What a callback may hook into. Callbacks add behaviour to the loop; the loop itself never grows an `if`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stpipe.engine.loop import Trainer


class Callback:
    """Base of all callbacks. A user's own is a dataclass registered in CALLBACKS and named in `callbacks.NAME`.

    The hooks get the trainer: `trainer.state`, `trainer.model` (inference class that shares the trained parameters),
    `trainer.settings`, `trainer.num_steps`. `trainer.stop(reason)` ends training after the step.
    """

    def on_train_start(self, trainer: Trainer) -> None:
        """Before the first step of this process."""

    def on_step_end(self, trainer: Trainer) -> None:
        """After each optimiser step; trainer.state.step counts it already."""

    def on_log(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Every trainer.log_steps steps, with means over the window."""

    def on_evaluate(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """After an evaluation, with full metric names."""

    def on_checkpoint(self, trainer: Trainer) -> None:
        """After a checkpoint is complete on disk."""

    def on_train_end(self, trainer: Trainer) -> None:
        """After the last step, also when training failed or was interrupted."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what state_dict gave."""
