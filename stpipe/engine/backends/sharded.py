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
    devices hold a whole model only while one is evaluated.
    """

    whole: nn.Module

    def cut_off(self, module: nn.Module) -> nn.Module:
        """The copy that is trained; the module itself stays behind for `whole_model`."""
        trained = copy.deepcopy(module)
        self.whole = module.to("cpu" if self.is_main else "meta")
        return trained

    def weights(self) -> dict[str, Tensor]:
        """The weights as they are now, whole and on the CPU; all processes take part, rank 0 has them."""
        raise NotImplementedError

    @contextmanager
    def whole_model(self) -> Iterator[None]:
        found = self.weights()
        if self.is_main:
            self.whole.load_state_dict(found)
            self.whole.to(self.device)
        yield
        if self.is_main:
            self.whole.to("cpu")

    def finish(self) -> None:
        found = self.weights()
        if self.is_main:
            self.whole.load_state_dict(found)
            self.whole.to(self.device)


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
