"""Parameters, gradients and optimiser cut over processes by PyTorch's `fully_shard` (FSDP2), on CPU and GPU alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard

from stpipe.config.errors import ConfigError, Problem
from stpipe.config.fields import option
from stpipe.config.registry import BACKENDS
from stpipe.core.peers import Peers
from stpipe.engine.backends.base import Distributed
from stpipe.engine.backends.ddp import start_replicas
from stpipe.engine.backends.runtime import Runtime
from stpipe.engine.backends.sharded import ShardedRuntime, exchange_parameters

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
FROM_WHOLE = StateDictOptions(full_state_dict=True, broadcast_from_rank0=False)


@BACKENDS.register("fsdp2", aliases=("fsdp", "FSDP2"))
@dataclass(frozen=True)
class FSDP2(Distributed):
    """Parameters, gradients and optimiser state cut over processes; each layer is put together while it computes. For models that a device
    cannot hold with their optimiser."""

    shards_parameters: ClassVar[bool] = True

    reshard_after_forward: bool = option(
        True, help="Cut each layer again after its forward: less memory, and its weights are exchanged once more in the backward."
    )
    cpu_offload: bool = option(False, help="Keep the shards in the memory of the machine, and update them there; for GPUs.")

    def build(self, *, device: str, precision: str, max_grad_norm: float | None = None, peers: Peers | None = None) -> Runtime:
        accelerator, peers = start_replicas(self, device=device, precision=precision, peers=peers)
        return FSDP2Runtime(accelerator, peers, reshard_after_forward=self.reshard_after_forward, cpu_offload=self.cpu_offload)


class FSDP2Runtime(ShardedRuntime):
    """A module under fully_shard. Accelerate gives device, precision and loss scaling; it does not wrap the module."""

    def __init__(self, accelerator: Accelerator, peers: Peers, *, reshard_after_forward: bool, cpu_offload: bool) -> None:
        super().__init__(accelerator, peers)
        self.reshard_after_forward = reshard_after_forward
        self.offload = CPUOffloadPolicy() if cpu_offload else OffloadPolicy()

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        refuse_scalars(module)
        original = dict(module.named_parameters())
        trained = self.cut_off(module)
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        settings: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": self.reshard_after_forward, "offload_policy": self.offload}
        for layer in layers(trained):
            fully_shard(layer, **settings)
        fully_shard(trained, **settings)
        exchange_parameters(optimizer, original, dict(trained.named_parameters()))
        # In evaluation mode it adds autocast and nothing else.
        self.module = self.accelerator.prepare_model(trained, evaluation_mode=True)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)

    @property
    def sharded(self) -> FSDPModule:
        assert isinstance(self.module, FSDPModule)
        return self.module

    @contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        self.sharded.set_requires_gradient_sync(last)
        self.sharded.set_is_last_backward(last)
        yield

    def clip_and_step(self, max_norm: float | None, rescale: Tensor | None) -> Tensor:
        norm = super().clip_and_step(max_norm, rescale)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def weights(self) -> dict[str, Tensor]:
        found: dict[str, Any] = get_model_state_dict(self.module, options=WHOLE)
        return found

    def state_dict(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "module": self.weights(),
            "optimizer": get_optimizer_state_dict(self.module, self.optimizer.optimizer, options=WHOLE),
            "scaler": {} if scaler is None else scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.load_module(state["module"])
        set_optimizer_state_dict(self.module, self.optimizer.optimizer, state["optimizer"], options=FROM_WHOLE)
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def load_module(self, state: Mapping[str, Tensor]) -> None:
        set_model_state_dict(self.module, dict(state), options=FROM_WHOLE)


def layers(module: nn.Module) -> list[nn.Module]:
    """The layers of the backbones: members of the outermost lists of modules of one class.

    Layers that share parameters with other parts are left out, because a parameter can be cut only once: they are cut with the module as
    a whole, as those of a decoder that is tied to its encoder.
    """
    users: Counter[int] = Counter(id(p) for part in module.modules() for p in part.parameters(recurse=False))
    found: list[nn.Module] = []
    inside: list[str] = []
    for name, part in module.named_modules():
        if any(name.startswith(f"{outer}.") for outer in inside) or not isinstance(part, nn.ModuleList):
            continue
        kinds = {type(layer) for layer in part}
        if len(part) > 1 and len(kinds) == 1:
            inside.append(name)
            own = [[p for inner in layer.modules() for p in inner.parameters(recurse=False)] for layer in part]
            found += [
                layer
                for layer, parameters in zip(part, own, strict=True)
                if any(p.numel() for p in parameters) and all(n == users[i] for i, n in Counter(map(id, parameters)).items())
            ]
    return found


def refuse_scalars(module: nn.Module) -> None:
    """There is nothing to cut of a parameter without dimensions.

    Raises:
        ConfigError: the module has one.
    """
    scalars = [name for name, p in module.named_parameters() if p.ndim == 0]
    if scalars:
        raise ConfigError(
            Problem(
                "backend.name", f"'fsdp2' cannot cut parameters without dimensions, here {', '.join(scalars)}. Give them the shape (1,)"
            )
        )
