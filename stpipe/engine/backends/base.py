"""What a backend is: the configuration of where a run is computed, and how it is started."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.fields import option
from stpipe.core.peers import ConnectedPeers, Peers
from stpipe.core.world import RANK_VARIABLES, World
from stpipe.engine.backends.runtime import Runtime

#: Longest wait in a collective. Waiting for rank 0 to evaluate or to save is no collective.
COLLECTIVE = timedelta(minutes=30)
#: What Accelerate and DeepSpeed want to read of a process that is alone; nobody is met at that port.
ALONE = World(0, 1, 0, "127.0.0.1", 29500)
TRANSPORTS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl", "npu": "cpu:gloo,npu:hccl"}


@dataclass(frozen=True)
class Backend(ABC):
    """Starts a run on its devices. Class attributes are recorded in the schema, where `validate` reads them.

    devices: kinds of device; precisions: values of trainer.precision; distributed: whether it runs in several processes;
    shards_parameters: whether no process has the whole weights while it trains (ZeRO depends on its stage).
    """

    devices: ClassVar[tuple[str, ...]]
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16")
    distributed: ClassVar[bool] = False
    shards_parameters: ClassVar[bool] = False

    def check(self, *, device: str, precision: str, processes: int) -> None:
        """What `build` refuses and can be known without starting anything.

        Raises:
            ConfigError: it would.
        """
        if precision == "fp16" and device == "cpu":
            raise ConfigError(Problem("trainer.precision", "fp16 needs a GPU and the device is the CPU. Use bf16 or fp32."))

    @abstractmethod
    def build(self, *, device: str, precision: str, max_grad_norm: float | None = None, peers: Peers | None = None) -> Runtime:
        """Start the backend.

        Args:
            device: type of device, as `choose_device` gives it.
            precision: trainer.precision.
            max_grad_norm: trainer.max_grad_norm, for backends that clip by themselves.
            peers: the processes of the run; None: this one alone.

        Raises:
            ConfigError: the processes that there are, or the device, are not what the configuration says.
        """


@dataclass(frozen=True)
class Distributed(Backend):
    """A backend of several processes, one for each device."""

    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "npu")
    distributed: ClassVar[bool] = True

    num_processes: int | None = option(
        None,
        ge=1,
        help="Processes to start on this machine, one a device; None: those that torchrun, accelerate launch or srun started, else one for each GPU.",
    )

    def check(self, *, device: str, precision: str, processes: int) -> None:
        super().check(device=device, precision=precision, processes=processes)
        self.check_processes(processes)

    def check_processes(self, processes: int) -> None:
        """The processes that there are against those that were asked for."""
        if self.num_processes not in (None, processes):
            raise ConfigError(
                Problem(
                    "backend.num_processes",
                    f"is {self.num_processes}, but the launcher started {processes} (WORLD_SIZE). Leave it out under a launcher",
                )
            )

    def started(self, accelerator: Accelerator, peers: Peers, device: str, expected: DistributedType) -> Accelerator:
        """The accelerator, once it is what was asked for: several ways to start it give unconnected processes without an error."""
        found = (accelerator.device.type, accelerator.num_processes, accelerator.process_index, accelerator.distributed_type)
        wanted = (device, peers.size, peers.rank, expected)
        if found != wanted:
            raise ConfigError(
                Problem(
                    "backend.name",
                    f"Accelerate started as {describe(*found)} instead of {describe(*wanted)}. Variables ACCELERATE_* in the environment may be "
                    "the cause: unset them",
                )
            )
        return accelerator


def describe(device: str, size: int, rank: int, kind: DistributedType) -> str:
    """A started accelerator in words."""
    return f"{kind.value} on {device}, rank {rank} of {size}"


def reset_accelerate() -> None:
    """Accelerate keeps its state process-wide; a second run in one process (a sweep, a notebook) starts afresh."""
    # Left by the run before: by a plugin of Accelerate, and by join_group.
    for name in ("ACCELERATE_USE_DEEPSPEED", *RANK_VARIABLES):
        os.environ.pop(name, None)
    AcceleratorState._reset_state(reset_partial_state=True)


def join_group(peers: Peers, device: str) -> None:
    """Make the process group of torch, which Accelerate and DeepSpeed then find and use."""
    if dist.is_initialized():
        dist.destroy_process_group()
    if isinstance(peers, ConnectedPeers):
        os.environ.update(peers.world.variables())
        store: Any = dist.PrefixStore(f"group/{peers.runs}", peers.store)
    else:
        os.environ.update(ALONE.variables())
        store = dist.HashStore()
    local = int(os.environ["LOCAL_RANK"])
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise ConfigError(
                Problem("backend.num_processes", f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}")
            )
        torch.cuda.set_device(local)
    dist.init_process_group(TRANSPORTS[device], store=store, rank=peers.rank, world_size=peers.size, timeout=COLLECTIVE)
