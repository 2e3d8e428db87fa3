"""The training loop. Everything that is not the loop is a strategy, a backend or a callback."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stpipe.config.errors import PreemptedError, TrainingError
from stpipe.config.sections import TrainerSection
from stpipe.core.batch import Batch
from stpipe.core.context import StepContext
from stpipe.core.result import LossOutput
from stpipe.core.signals import Preempted, Signals, leave_to_parent
from stpipe.data.stream import BatchStream
from stpipe.data.streaming import StreamBatches
from stpipe.engine.accumulation import Accumulation
from stpipe.engine.backends import Runtime
from stpipe.engine.callbacks.base import Callback
from stpipe.engine.checkpoint import Checkpoint, checkpoint_at, copy_checkpoint, damage, restore_name, retain, save_checkpoint
from stpipe.engine.ema import WeightAverage
from stpipe.engine.length import RunLength
from stpipe.engine.meter import Meter
from stpipe.engine.schedules import Schedule
from stpipe.engine.sparsity import CORRECT_EVERY
from stpipe.engine.strategies import Strategy


@dataclass
class TrainState:
    """What the next step depends on besides tensors; saved with every checkpoint.

    evaluation_due: the evaluation after this step was put off, because the run was asked to leave; it comes first when it goes on.
    """

    step: int = 0
    best_step: int | None = None
    best_value: float | None = None
    evaluations_without_best: int = 0
    evaluation_due: bool = False


@dataclass(frozen=True)
class BestRule:
    """Which evaluation metric picks the model to keep, and whether more of it is better."""

    metric: str
    greater_is_better: bool

    def better(self, value: float, best: float | None) -> bool:
        """Whether `value` beats `best` (None: nothing yet). A value that is not a number (undefined metric) never does."""
        if not math.isfinite(value):
            return False
        return best is None or (value > best if self.greater_is_better else value < best)


class Trainer:
    """Runs optimiser steps from the saved position to the end.

    Args:
        model: inference class that shares the trained parameters; handed to evaluation and callbacks.
        runtime: started backend that holds the prepared TrainModule and optimiser.
        stream: batches by their number in the run, so that a position is a number.
        length: steps, batches and intervals of the run.
        schedule: learning-rate factor by step.
        settings: the trainer section.
        folder: where checkpoints go.
        identity: training-relevant configuration, stored with checkpoints so that a resume can be checked against it.
        evaluate: metrics of the model as it is now, on rank 0; called by all processes, None when there is nothing to evaluate.
        best: rule that picks the model to keep; None keeps the last.
        callbacks: called in order.
        signals: requests to leave; every process leaves after the same step, with a checkpoint of it.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        runtime: Runtime,
        stream: BatchStream | StreamBatches,
        length: RunLength,
        schedule: Schedule,
        settings: TrainerSection,
        folder: Path,
        identity: Mapping[str, Any],
        evaluate: Callable[[], Mapping[str, float] | None] | None = None,
        best: BestRule | None = None,
        callbacks: Sequence[Callback] = (),
        signals: Signals | None = None,
    ) -> None:
        self.signals = signals or Signals()
        self.model = model
        self.runtime = runtime
        self.stream = stream
        self.length = length
        self.schedule = schedule
        self.settings = settings
        self.folder = folder
        self.identity = identity
        self.best = best
        self.callbacks = tuple(callbacks)
        self.state = TrainState()
        self.meter = Meter()
        self.stop_reason: str | None = None
        self.average = None if settings.ema_decay is None else WeightAverage(runtime.module, decay=settings.ema_decay)
        self._evaluate = evaluate

    @property
    def num_steps(self) -> int:
        return self.length.num_steps

    @property
    def epoch(self) -> float:
        """Passes over the data done so far."""
        return self.length.batches_done(self.state.step) / len(self.stream)

    def stop(self, reason: str) -> None:
        """End training after this step."""
        self.stop_reason = reason

    def fit(self) -> None:
        """Train to the end and leave the chosen weights (last, best or averaged) in the model.

        Raises:
            PreemptedError: a signal asked to leave, and the checkpoint of this step is complete.
        """
        self.runtime.module.train()
        for callback in self.callbacks:
            callback.on_train_start(self)
        try:
            with memory_errors_named():
                if self.settings.probe_first_step and self.state.step == 0:
                    self.probe()
                self._steps()
        except BaseException:
            for callback in self.callbacks:
                with suppress(Exception):  # why training ended is the news, not that a callback cannot write either
                    callback.on_train_end(self)
            raise
        for callback in self.callbacks:
            callback.on_train_end(self)
        self._choose_weights()

    def _steps(self) -> None:
        if self.state.evaluation_due:
            self._evaluate_and_save()
        batches = self._batches()
        while self.state.step < self.num_steps and self.stop_reason is None:
            step = self.state.step
            self._set_learning_rate(step)
            values = self._step(batches, self.length.batches_of(step))
            self.state.step += 1
            if self.average is not None:
                self.average.update()
            self.meter.add(values)
            if self.state.step % self.settings.log_steps == 0 or self.state.step == self.num_steps:
                self._log()
            for callback in self.callbacks:
                callback.on_step_end(self)
            stop, leave = self.runtime.any(self.stop_reason is not None, self.signals.received is not None)
            if stop and self.stop_reason is None:
                self.stop("another process asked to")
            self._evaluate_and_save(leave=leave)

    def _step(self, batches: Iterator[Batch], num_batches: int) -> dict[str, Tensor]:
        """Forward and backward of the step's batches, then the optimiser. Returns values to log, still on the device."""
        runtime, accumulation = self.runtime, Accumulation(self.runtime)
        outputs: list[LossOutput] = []
        for micro in range(num_batches):
            waited = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - waited
            ctx = StepContext(self.state.step, self.num_steps, micro, self.settings.seed, runtime.rank)
            strategy = self.train_module.strategies[batch.source]
            outputs.append(strategy.run(accumulation, batch.to(runtime.device), ctx, last=micro == num_batches - 1).detach())
            self._count(batch, waited)
        self._correct(batch, ctx, outputs[-1].metrics)
        norm = runtime.clip_and_step(self.settings.max_grad_norm, accumulation.rescale)
        self._advance(outputs[-1].metrics)
        total, count = runtime.total(torch.stack([torch.stack([o.sum.float(), o.count.float()]) for o in outputs]).sum(0))
        values = {"loss": total / count.clamp(min=1)}
        values.update({f"loss/{k}": v for k, v in outputs[-1].terms.items()})
        return {**values, **outputs[-1].metrics, "grad_norm": norm}

    def _advance(self, values: Mapping[str, Tensor]) -> None:
        maximum = None if self.runtime.world_size == 1 else self.runtime.maximum
        self.train_module.advance(values, mean=self._mean, maximum=maximum)

    def _correct(self, batch: Batch, ctx: StepContext, in_training: Mapping[str, Tensor]) -> None:
        """Now and then, look at a batch without dropout, where something is steered that dropout changes."""
        if not self.train_module.controllers or self.state.step % CORRECT_EVERY:
            return
        self.runtime.module.eval()
        with torch.no_grad():
            # Not through the wrapper: DDP would overwrite the buffers of this process, which count what its own texts did.
            values = self.train_module(batch.to(self.runtime.device), ctx).metrics
        self.runtime.module.train()
        self.train_module.correct(values, in_training, mean=self._mean)

    def _mean(self, value: Tensor) -> Tensor:
        return self.runtime.total(value) / self.runtime.world_size

    def _count(self, batch: Batch, waited: float) -> None:
        module = self.train_module
        cost = module.strategies[batch.source].cost(batch, layout=module.encoder.layout, device_type=self.runtime.device.type)
        self.meter.count(rows=len(batch), tokens=batch.num_tokens, computed_tokens=cost.tokens, wait=waited)

    @property
    def train_module(self) -> Any:
        """The TrainModule without the backend's wrapper."""
        return self.runtime.unwrapped

    def _batches(self) -> Iterator[Batch]:
        position = self.length.batches_done(self.state.step)
        workers = self.settings.num_workers
        loader = DataLoader(
            self.stream.fetched(),
            batch_size=None,
            sampler=range(position, self.length.num_batches),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=partial(leave_to_parent, self.settings.preempt_signals),
            pin_memory=False,
        )
        return map(self.stream.received, loader)

    def _set_learning_rate(self, step: int) -> None:
        factor = self.schedule.factor(step, self.num_steps)
        for group in self.runtime.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor

    def _log(self) -> None:
        values = self.meter.read()
        for rate in ("samples_per_second", "tokens_per_second"):  # those of all processes; this one has an equal share
            values[rate] *= self.runtime.world_size
        values["lr"] = max(group["lr"] for group in self.runtime.optimizer.param_groups)
        bad = [name for name in ("loss", "grad_norm") if not math.isfinite(values[name])]
        if bad and not (self.settings.precision == "fp16" and bad == ["grad_norm"]):
            raise TrainingError(
                f"{bad[0]} is {values[bad[0]]} within the {self.settings.log_steps} steps up to {self.state.step}. "
                "Lower optimizer.lr, set trainer.max_grad_norm, or use trainer.precision=fp32; the last checkpoint is from before."
            )
        for callback in self.callbacks:
            callback.on_log(self, values)

    def _evaluate_and_save(self, *, leave: bool = False) -> None:
        """What is due after a step. leave: put an evaluation off, save in any case, and leave."""
        began = time.perf_counter()
        step, last = self.state.step, self.state.step == self.num_steps or self.stop_reason is not None
        due = self.length.evaluates_at(step, last=last, has_best=self.best is not None) and self._evaluate is not None
        self.state.evaluation_due = due and leave
        improved = due and not leave and self.evaluate()
        if improved or self.length.saves_at(step) or last or self.stop_reason is not None or leave or self.state.evaluation_due:
            self.save()
        if leave or self.state.evaluation_due:
            raise PreemptedError(f"{self.signals.received or 'a signal to another process'}: step {step} of {self.num_steps} is saved")
        self.meter.skip(time.perf_counter() - began)

    def evaluate(self) -> bool:
        """Evaluate now; True when the model is the best so far. A request to leave ends it: the evaluation is due then."""
        if self._evaluate is None:
            return False
        self.model.eval()
        found: Mapping[str, float] | None = {}
        with nullcontext() if self.average is None else self.average.swapped(), self.runtime.whole_model():
            try:
                with self.signals.at_once():
                    found = self._evaluate() or {}
            except Preempted:
                found = None
        metrics = self.runtime.peers.decided("metrics", lambda: None if found is None else dict(found))
        self.runtime.module.train()
        if metrics is None:
            self.state.evaluation_due = True
            return False
        improved = self._compare(metrics)
        for callback in self.callbacks:
            callback.on_evaluate(self, metrics)
        return improved

    def _compare(self, metrics: Mapping[str, float]) -> bool:
        if self.best is None:
            return False
        value = metrics[self.best.metric]
        if self.best.better(value, self.state.best_value):
            self.state.best_value, self.state.best_step = value, self.state.step
            self.state.evaluations_without_best = 0
            return True
        self.state.evaluations_without_best += 1
        patience = self.settings.early_stopping_patience
        if patience is not None and self.state.evaluations_without_best >= patience:
            self.stop(f"{self.best.metric} has not improved in {patience} evaluations")
        return False

    def save(self) -> None:
        """Write a complete checkpoint of this step."""
        tensors = self.runtime.state_dict()
        if self.average is not None:
            tensors["ema"] = self.average.state_dict()
        state = {
            "trainer": asdict(self.state),
            "meter": self.meter.state_dict(),
            "callbacks": {name: callback.state_dict() for name, callback in self._named_callbacks().items()},
            "identity": self.identity,
            "stop_reason": self.stop_reason,
            "data": self.stream.state_dict(),
            "strategies": {name: strategy.name for name, strategy in self.train_module.strategies.items()},
        }
        save_checkpoint(
            self.folder, step=self.state.step, tensors=tensors, state=state, own=self.runtime.own_state(), peers=self.runtime.peers
        )
        if self.runtime.is_main:
            keep = set() if self.state.best_step is None else {self.state.best_step}
            retain(self.folder, current=self.state.step, limit=self.settings.save_total_limit, keep=keep)
        for callback in self.callbacks:
            callback.on_checkpoint(self)

    def load(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of the same run."""
        state = checkpoint.state()
        self.runtime.load_state_dict({name: checkpoint.tensors(name) for name in self.runtime.parts_of_state if checkpoint.has(name)})
        self.state = TrainState(**state["trainer"])
        self.meter.load_state_dict(state["meter"], device=self.runtime.device)
        self.stop_reason = state["stop_reason"]
        self.stream.load_state_dict(state.get("data", {}))
        if self.average is not None:
            self.average.load_state_dict(checkpoint.tensors("ema"))
        for name, callback in self._named_callbacks().items():
            callback.load_state_dict(state["callbacks"].get(name, {}))
        self._settle(checkpoint)

    def _named_callbacks(self) -> dict[str, Callback]:
        """Callbacks by class and how-manieth of it, so that a callback finds its state on every process, whatever others rank 0 has."""
        seen: Counter[str] = Counter()
        named: dict[str, Callback] = {}
        for callback in self.callbacks:
            kind = type(callback).__name__
            named[f"{kind}:{seen[kind]}"] = callback
            seen[kind] += 1
        return named

    def _settle(self, checkpoint: Checkpoint) -> None:
        """Have the best weights so far among the checkpoints of this run, or forget them where they are lost (trainer.resume_allow)."""
        self.runtime.peers.all_here("checkpoint loaded")
        if self.runtime.is_main:
            restore_name(checkpoint)
        step = self.state.best_step
        if step is None:
            return
        here, there = checkpoint_at(self.folder, step), checkpoint_at(checkpoint.path.parent, step)

        def found() -> bool:
            if damage(there) is not None:
                return False
            if not here.path.exists():  # a checkpoint of another directory was asked for
                copy_checkpoint(there, self.folder)
            return True

        if not self.runtime.peers.decided("best checkpoint", found):
            self.state.best_step = self.state.best_value = None

    def _choose_weights(self) -> None:
        """Leave the best weights in the model when a metric picks them, else the last; averaged ones with EMA.

        Raises:
            TrainingError: the checkpoint that holds the best ones is damaged.
        """
        best = self.state.best_step
        if best is not None and best != self.state.step:
            checkpoint = checkpoint_at(self.folder, best)
            problem = self.runtime.peers.decided("best weights", lambda: damage(checkpoint))
            if problem is not None:
                raise TrainingError(
                    f"the best weights are those of step {best}, but {checkpoint.path} is damaged: {problem}. With trainer.resume=auto the "
                    "run goes on from an older checkpoint, and computes them again; with trainer.resume_allow=[lost_best] it keeps the last ones"
                )
            self.runtime.load_module(checkpoint.tensors("module"))
            if self.average is not None:
                self.average.load_state_dict(checkpoint.tensors("ema"))
        if self.average is not None:
            self.average.apply()
        self.runtime.finish()
        self.model.eval()

    def probe(self) -> None:
        """One step on the costliest batch of each strategy that changes nothing, so that out-of-memory shows before the first step.

        The optimiser runs with learning rate 0 to allocate its moments, which are dropped afterwards.
        """
        runtime = self.runtime
        scaler = runtime.accelerator.scaler
        before = None if scaler is None else scaler.state_dict()
        for group in runtime.optimizer.param_groups:
            group["lr"] = 0.0
        accumulation, ctx = Accumulation(runtime), StepContext(seed=self.settings.seed, rank=runtime.rank)
        strategies: dict[Strategy, list[str]] = {}
        for name, strategy in self.train_module.strategies.items():
            strategies.setdefault(strategy, []).append(name)
        for i, (strategy, names) in enumerate(strategies.items()):
            batch = self.stream.worst_case(names).to(runtime.device)
            strategy.run(accumulation, batch, ctx, last=i == len(strategies) - 1)
        runtime.clip_and_step(self.settings.max_grad_norm, None)
        runtime.forget_moments()
        self.train_module.forget()
        if scaler is not None:
            scaler.load_state_dict(before)
        self.meter = Meter()


@contextmanager
def memory_errors_named() -> Iterator[None]:
    """Turns torch's out-of-memory errors into one that names the keys to change."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if not (isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate" in text):
            raise
        raise TrainingError(
            f"out of memory: {str(error).splitlines()[0]}\nFirst use strategy=recompute (same result, memory of one micro-batch), "
            "then lower strategy.token_budget; trainer.batch_size changes the number of in-batch negatives."
        ) from error
