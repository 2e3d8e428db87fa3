"""On what a run is computed. The only place that knows Accelerate; it decides devices, precision and wrapping."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.registry import BACKENDS


class Runtime:
    """A started backend: module and optimiser as they are trained, and the operations of a step."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.module: nn.Module
        self.optimizer: Any

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def world_size(self) -> int:
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Wrap the module and the optimiser for this backend."""
        self.module, self.optimizer = self.accelerator.prepare(module, optimizer)

    @contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        """Gradients are exchanged between processes in the last backward of a step only."""
        with nullcontext() if last else self.accelerator.no_sync(self.module):
            yield

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def total(self, value: Tensor) -> Tensor:
        """Sum of a 0-d tensor over all processes."""
        return value if self.world_size == 1 else self.accelerator.reduce(value, reduction="sum")

    def maximum(self, value: Tensor) -> Tensor:
        """Elementwise maximum of a tensor over all processes."""
        if self.world_size > 1:
            torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
        return value

    def clip_and_step(self, max_norm: float | None, rescale: Tensor | None) -> Tensor:
        """Scale the gradients, clip them, take the optimiser's step, drop them. Returns the norm before clipping (0-d)."""
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        if rescale is not None:
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], rescale)
        norm = self.accelerator.clip_grad_norm_(parameters, float("inf") if max_norm is None else max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """State of module, optimiser and loss scaler."""
        scaler = self.accelerator.scaler
        return {
            "module": self.accelerator.unwrap_model(self.module, keep_fp32_wrapper=False).state_dict(),
            "optimizer": self.optimizer.optimizer.state_dict(),
            "scaler": {} if scaler is None else scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.accelerator.unwrap_model(self.module, keep_fp32_wrapper=False).load_state_dict(state["module"])
        self.optimizer.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])


@BACKENDS.register("single")
@dataclass(frozen=True)
class Single:
    """One process on one device."""

    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "mps", "npu")

    def build(self, *, device: str, precision: str) -> Runtime:
        """Start the backend. `device` and `precision` are those of the trainer section."""
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if processes > 1:
            raise ConfigError(
                Problem("backend.name", f"'single' is one process, but WORLD_SIZE is {processes}. Start stpipe without a launcher.")
            )
        chosen = choose_device(device)
        if precision == "fp16" and chosen == "cpu":
            raise ConfigError(Problem("trainer.precision", "fp16 needs a GPU and the device is the CPU. Use bf16 or fp32."))
        # Accelerate keeps its state process-wide; a second run in one process (a sweep, a notebook) starts afresh.
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=chosen == "cpu", mixed_precision={"fp32": "no"}.get(precision, precision))
        if accelerator.device.type != chosen or accelerator.num_processes != 1:
            raise ConfigError(
                Problem(
                    "trainer.device", f"asked for one process on {chosen}, got {accelerator.num_processes} on {accelerator.device.type}"
                )
            )
        return Runtime(accelerator)


def choose_device(device: str) -> str:
    """The device type that `auto` or an explicit name means on this machine."""
    found = {
        "cuda": torch.cuda.is_available(),
        "npu": hasattr(torch, "npu") and torch.npu.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return next(name for name, there in found.items() if there)
    if not found[device]:
        available = ", ".join(name for name, there in found.items() if there)
        raise ConfigError(Problem("trainer.device", f"'{device}' is not available here. Available: {available}"))
    return device
