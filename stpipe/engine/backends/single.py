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

    def check(self, *, device: str, precision: str, processes: int) -> None:
        super().check(device=device, precision=precision, processes=processes)
        if processes > 1:
            raise ConfigError(
                Problem(
                    "backend.name",
                    f"'single' is one process, but the launcher started {processes} (WORLD_SIZE). Use backend=ddp, or start stpipe without it",
                )
            )

    def build(self, *, device: str, precision: str, max_grad_norm: float | None = None, peers: Peers | None = None) -> Runtime:
        self.check(device=device, precision=precision, processes=1 if peers is None else peers.size)
        reset_accelerate()
        accelerator = Accelerator(cpu=device == "cpu", mixed_precision={"fp32": "no"}.get(precision, precision))
        if accelerator.device.type != device or accelerator.num_processes != 1:
            found = f"{accelerator.num_processes} on {accelerator.device.type}"
            raise ConfigError(Problem("trainer.device", f"asked for one process on {device}, got {found}"))
        return Runtime(accelerator, peers)
