"""Replicas of the whole model, one a process."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import nn

from stpipe.config.registry import BACKENDS
from stpipe.core.peers import Peers
from stpipe.engine.backends.base import Distributed, join_group, reset_accelerate
from stpipe.engine.backends.runtime import Runtime

REPLICAS = {"cpu": DistributedType.MULTI_CPU, "cuda": DistributedType.MULTI_GPU, "npu": DistributedType.MULTI_NPU}


@BACKENDS.register("ddp", aliases=("DDP",))
@dataclass(frozen=True)
class DDP(Distributed):
    """The whole model in every process (PyTorch's DistributedDataParallel); gradients are averaged. The choice while a model fits a device."""

    def build(self, *, device: str, precision: str, max_grad_norm: float | None = None, peers: Peers | None = None) -> Runtime:
        accelerator, peers = start_replicas(self, device=device, precision=precision, peers=peers)
        return Replicas(accelerator, peers)


class Replicas(Runtime):
    """Modules under DDP."""

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        # A module says so when a batch may leave parameters without a gradient; looking for them costs time, so others are not searched.
        self.accelerator.ddp_handler.find_unused_parameters = bool(getattr(module, "skips_parameters", False))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)  # Accelerate has no other name for it
            super().prepare(module, optimizer)


def start_replicas(backend: Distributed, *, device: str, precision: str, peers: Peers | None) -> tuple[Accelerator, Peers]:
    """A connected accelerator that wraps modules in DDP."""
    peers = peers or Peers()
    backend.check(device=device, precision=precision, processes=peers.size)
    reset_accelerate()
    join_group(peers, device)
    # Buffers are equal by construction, and those that note what this process has seen (latents that fired) must not be overwritten.
    replicas = DistributedDataParallelKwargs(broadcast_buffers=False)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision={"fp32": "no"}.get(precision, precision), kwargs_handlers=[replicas])
    return backend.started(accelerator, peers, device, REPLICAS[device]), peers
