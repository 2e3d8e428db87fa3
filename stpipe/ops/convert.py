"""Whatever a caller holds (lists, numpy arrays, tensors, sparse or dense) -> float tensors fit for arithmetic."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """The same values in at least fp32: half precision rounds scores to a few hundred levels, which makes ties of near ones."""
    if x.is_floating_point() and torch.finfo(x.dtype).bits >= 32:
        return x
    return x.float()


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Region in which autocast does not turn matrix products on the device of `x` into half precision."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def as_tensor(x: Any) -> Tensor:
    """A tensor of at least fp32 from a tensor, numpy array, list of numbers, or list of tensors or arrays."""
    if isinstance(x, (list, tuple)) and x and isinstance(x[0], Tensor):
        x = torch.stack(list(x))
    elif isinstance(x, (list, tuple)) and x and isinstance(x[0], np.ndarray):
        x = np.stack(x)
    if isinstance(x, np.ndarray) and not x.flags.writeable:
        x = x.copy()  # torch cannot share memory that it must not write to
    return upcast(torch.as_tensor(x))


def as_matrix(x: Any) -> Tensor:
    """Like `as_tensor`; a single vector becomes a matrix of one row."""
    x = as_tensor(x)
    return x.unsqueeze(0) if x.dim() == 1 else x


def densify(x: Tensor) -> Tensor:
    """A dense tensor, whatever the layout."""
    return x if x.layout is torch.strided else x.to_dense()
