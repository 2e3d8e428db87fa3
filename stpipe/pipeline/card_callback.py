"""Collects what the model card needs while it happens: what a run starts from, how long it trained, what energy it took.

The hooks and what they record: `on_init_end` data sets, losses, citations and examples (`record_start` makes and fills the card
data); `on_train_start` to `on_train_end` a session (steps, seconds, seconds of evaluations, energy), written with every
checkpoint. Values by step are written by `MetricsLog` at the same moments, hyper-parameters by the pipeline as config.yaml.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stpipe.cards.collected import read_collected, write_collected
from stpipe.cards.data import CrossEncoderModelCardData, SentenceTransformerModelCardData, SparseEncoderModelCardData
from stpipe.engine.callbacks import Callback
from stpipe.pipeline.energy import EnergyMeter

if TYPE_CHECKING:
    from stpipe.engine.loop import Trainer


class SentenceTransformerModelCardCallback(Callback):
    """Keeps card.json of a run of a dense model; base of the others. A few milliseconds a checkpoint, nothing in a step.

    Args:
        folder: the run directory.
        energy: measures the energy of this process; None measures none.
    """

    data_class: ClassVar[type[SentenceTransformerModelCardData]] = SentenceTransformerModelCardData

    def __init__(self, folder: Path, *, energy: EnergyMeter | None = None) -> None:
        self.folder = folder
        self.energy = energy
        self._data = self.data_class()
        self._session: dict[str, Any] = {}
        self._began = self._step_ended = 0.0

    def on_init_end(self, data: SentenceTransformerModelCardData) -> None:
        """Before anything is trained: keep what the run starts from. Sessions of a run that is continued stay."""
        data.sessions = list(read_collected(self.folder).get("sessions") or [])
        write_collected(self.folder, data)

    def on_train_start(self, trainer: Trainer) -> None:
        self._data = self.data_class.from_dict(read_collected(self.folder))
        self._began = self._step_ended = time.perf_counter()
        self._session = {"from_step": trainer.state.step, "to_step": trainer.state.step, "seconds": 0.0, "evaluation_seconds": 0.0}
        if self.energy is not None:
            self.energy.start()

    def on_step_end(self, trainer: Trainer) -> None:
        self._step_ended = time.perf_counter()

    def on_evaluate(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        # The loop evaluates right after the step's callbacks.
        self._session["evaluation_seconds"] = round(self._session["evaluation_seconds"] + time.perf_counter() - self._step_ended, 3)

    def on_checkpoint(self, trainer: Trainer) -> None:
        self._write(trainer, None if self.energy is None else self.energy.read())

    def on_train_end(self, trainer: Trainer) -> None:
        self._write(trainer, None if self.energy is None else self.energy.stop())

    def _write(self, trainer: Trainer, energy: Mapping[str, Any] | None) -> None:
        if trainer.state.step == self._session["from_step"]:
            return  # a run that was finished already trains nothing
        self._session |= {"to_step": trainer.state.step, "seconds": round(time.perf_counter() - self._began, 3)}
        if energy is not None:
            self._session["energy"] = dict(energy)
        earlier = [s for s in self._data.sessions if s is not self._session]
        self._data.sessions = [*earlier, self._session]
        write_collected(self.folder, self._data)


class SparseEncoderModelCardCallback(SentenceTransformerModelCardCallback):
    """The same for sparse encoders."""

    data_class = SparseEncoderModelCardData


class CrossEncoderModelCardCallback(SentenceTransformerModelCardCallback):
    """The same for cross-encoders."""

    data_class = CrossEncoderModelCardData


CARD_CALLBACKS: Mapping[str, type[SentenceTransformerModelCardCallback]] = {
    c.data_class.kind: c for c in (SentenceTransformerModelCardCallback, SparseEncoderModelCardCallback, CrossEncoderModelCardCallback)
}
