"""A started backend, as the loop and the strategies see it. What differs between backends is a subclass."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stpipe.core.peers import Peers


class Runtime:
    """Module and optimiser as they are trained, and the operations of a step. This one is a single process, or replicas under DDP.

    Args:
        accelerator: knows device, precision and processes.
        peers: the other processes, beside collectives.
    """

    def __init__(self, accelerator: Accelerator, peers: Peers | None = None) -> None:
        self.accelerator = accelerator
        self.peers = peers or Peers()
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
        """Add the gradients of a 0-d tensor; they are averaged over processes."""
        self.accelerator.backward(loss)

    def total(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all processes, elementwise."""
        return value if self.world_size == 1 else self.accelerator.reduce(value, reduction="sum")

    def maximum(self, value: Tensor) -> Tensor:
        """Elementwise maximum of a tensor over all processes."""
        if self.world_size > 1:
            torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
        return value

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Whether each of them is so on any process."""
        if self.world_size == 1:
            return flags
        found = torch.tensor(flags, dtype=torch.int64)  # on the CPU, where no GPU has to be waited for
        torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
        return tuple(bool(flag) for flag in found)

    def clip_and_step(self, max_norm: float | None, rescale: Tensor | None) -> Tensor:
        """Scale the gradients, clip them, take the optimiser's step, drop them. Returns the norm before clipping (0-d)."""
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        if rescale is not None:
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], rescale)
        norm = self.accelerator.clip_grad_norm_(parameters, float("inf") if max_norm is None else max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def forget_moments(self) -> None:
        """Drop what the optimiser remembers, as if it had not taken a step."""
        self.optimizer.optimizer.state.clear()

    @contextmanager
    def whole_model(self) -> Iterator[None]:
        """Inside, the inference model of each process has the weights as they are now. All enter; a collective where weights are sharded."""
        yield

    @property
    def unwrapped(self) -> nn.Module:
        """The module without the wrapper of this backend."""
        # Accelerate has a function for it, which imports DeepSpeed wherever that is installed.
        return self.module.module if isinstance(self.module, DistributedDataParallel) else self.module

    def finish(self) -> None:
        """Leave the trained weights in the inference model."""

    @property
    def parts_of_state(self) -> tuple[str, ...]:
        """Names of what a checkpoint holds for this process."""
        return ("module", "optimizer", "scaler")

    def own_state(self) -> dict[str, Any]:
        """Parts that this process must save itself, because no other has them."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """State of module, optimiser and loss scaler, whole; all processes take part, rank 0 has it."""
        scaler = self.accelerator.scaler
        return {
            "module": self.unwrapped.state_dict(),
            "optimizer": self.optimizer.optimizer.state_dict(),
            "scaler": {} if scaler is None else scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.load_module(state["module"])
        self.optimizer.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def load_module(self, state: Mapping[str, Tensor]) -> None:
        """Set the weights of the trained module."""
        self.unwrapped.load_state_dict(state)

    def close(self) -> None:
        """Leave the process group; nothing can be trained any more."""
        self.let_go()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def let_go(self) -> None:
        """Drop the wrapped module while the process group is still there.

        A thread of gloo takes the GIL to free the last collective. If the group were freed in that moment, by whoever drops the wrapper
        last, it would wait for that thread with the GIL held, for ever.
        """
        self.accelerator.free_memory()
        del self.module, self.optimizer
        gc.collect()
        time.sleep(0.1)
