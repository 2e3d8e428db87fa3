"""Progress of training: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stpipe.engine.callbacks.base import Callback

if TYPE_CHECKING:
    from stpipe.engine.loop import Trainer

#: Seconds between plain lines; the first comes at once, so that a log shows early that training runs.
LINE_INTERVAL = 15.0


class ProgressDisplay(Callback):
    """Shows step, loss, rate and evaluation results of the main process on standard error.

    Args:
        mode: "auto" (bar on a terminal, else lines), "bar", "line" or "off".
    """

    def __init__(self, mode: str) -> None:
        self.console = Console(file=sys.stderr)
        self.mode = ("bar" if self.console.is_terminal else "line") if mode == "auto" else mode
        self._bar: Progress | None = None
        self._last_line = 0.0
        self._began = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: Trainer) -> None:
        self._began, self._first_step = time.monotonic(), trainer.state.step
        if self.mode == "bar":
            self._bar = Progress(
                TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn(),
                console=self.console,
            )  # fmt: skip
            self._bar.add_task("train", total=trainer.num_steps, completed=trainer.state.step, note="")
            self._bar.start()

    def on_step_end(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=trainer.state.step)

    def on_log(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        note = f"loss {values['loss']:.4f}  lr {values['lr']:.2e}  {values['samples_per_second']:.1f} rows/s  {values['tokens_per_second']:.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], note=note)
        now = time.monotonic()
        if self.mode == "line" and (now - self._last_line >= LINE_INTERVAL or trainer.state.step == trainer.num_steps):
            self._last_line = now
            self._print(f"step {trainer.state.step}/{trainer.num_steps}  {note}  {self._remaining(trainer)}")

    def on_evaluate(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        if self.mode == "off":
            return
        best = trainer.best.metric if trainer.best is not None else None
        shown = {best: metrics[best]} if best else dict(list(metrics.items())[:4])
        text = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
        mark = "  (best so far)" if trainer.state.best_step == trainer.state.step else ""
        self._print(f"step {trainer.state.step}  evaluation  {text}{mark}")

    def on_train_end(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self.mode != "off" and trainer.stop_reason is not None:
            self._print(f"stopped after step {trainer.state.step}: {trainer.stop_reason}")

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _remaining(self, trainer: Trainer) -> str:
        done = trainer.state.step - self._first_step
        seconds = (time.monotonic() - self._began) / max(done, 1) * (trainer.num_steps - trainer.state.step)
        return f"{timedelta(seconds=round(seconds))} left"
