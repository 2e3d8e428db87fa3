"""What backends share whose weights are cut over processes: no process has the model whole while it trains."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stpipe.engine.backends.runtime import Runtime


class ShardedRuntime(Runtime):
    """The inference model stays whole, on the CPU of rank 0, and gets the trained weights when somebody looks at it.

    What is cut is a copy of the module that was given. So evaluation and saving are those of every other backend, and the
    devices hold a whole model only while one is evaluated. The inference models of the other processes have no weights but then.
    """

    whole: nn.Module

    def cut_off(self, module: nn.Module) -> nn.Module:
        """The copy that is trained; the module itself stays behind for `whole_model`."""
        trained = copy.deepcopy(module)
        self.whole = module
        self._shapes = [p.shape for p in module.parameters()]
        self._set_aside()
        return trained

    def weights(self) -> dict[str, Tensor]:
        """The weights as they are now, whole and on the CPU; all processes take part, rank 0 has them."""
        raise NotImplementedError

    @contextmanager
    def whole_model(self) -> Iterator[None]:
        self._put_together()
        yield
        self._set_aside()

    def finish(self) -> None:
        self._put_together()

    def _set_aside(self) -> None:
        """Free the devices of the whole model. Its parameters stay the same objects, which others may refer to, and so do buffers."""
        if self.is_main:
            self.whole.to("cpu")
            return
        for parameter in self.whole.parameters():
            parameter.data = parameter.data.new_empty(0)

    def _put_together(self) -> None:
        """The whole model with the weights as they are now, on the device of every process. All processes take part."""
        found = self.weights()
        if self.is_main:
            self.whole.load_state_dict(found)
            self.whole.to(self.device)
        else:
            for parameter, shape in zip(self.whole.parameters(), self._shapes, strict=True):
                parameter.data = torch.empty(shape, dtype=parameter.dtype, device=self.device)
        if self.world_size > 1:
            for value in self.whole.state_dict().values():
                torch.distributed.broadcast(value, src=0)


def exchange_parameters(optimizer: torch.optim.Optimizer, old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    """Point the groups of a fresh optimiser to other parameters of the same names."""
    names = {id(parameter): name for name, parameter in old.items()}
    for group in optimizer.param_groups:
        group["params"] = [new[names[id(p)]] for p in group["params"]]


def move(value: Any, device: torch.device | str) -> Any:
    """Tensors anywhere in nested dicts and lists, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {k: move(v, device) for k, v in value.items()}
    return [move(v, device) for v in value] if isinstance(value, (list, tuple)) else value
