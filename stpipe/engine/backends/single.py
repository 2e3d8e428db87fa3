"""One process on one device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from accelerate import Accelerator

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.registry import BACKENDS
from stpipe.core.peers import Peers
from stpipe.engine.backends.base import Backend, reset_accelerate
from stpipe.engine.backends.runtime import Runtime


@BACKENDS.register("single")
@dataclass(frozen=True)
class Single(Backend):
    """One process on one device."""

    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "mps", "npu")

    def build(self, *, device: str, precision: str, max_grad_norm: float | None = None, peers: Peers | None = None) -> Runtime:
        if peers is not None and peers.size > 1:
            raise ConfigError(
                Problem(
                    "backend.name",
                    f"'single' is one process, but the launcher started {peers.size} (WORLD_SIZE). Use backend=ddp, or start stpipe without it",
                )
            )
        if precision == "fp16" and device == "cpu":
            raise ConfigError(Problem("trainer.precision", "fp16 needs a GPU and the device is the CPU. Use bf16 or fp32."))
        reset_accelerate()
        accelerator = Accelerator(cpu=device == "cpu", mixed_precision={"fp32": "no"}.get(precision, precision))
        if accelerator.device.type != device or accelerator.num_processes != 1:
            found = f"{accelerator.num_processes} on {accelerator.device.type}"
            raise ConfigError(Problem("trainer.device", f"asked for one process on {device}, got {found}"))
        return Runtime(accelerator, peers)
