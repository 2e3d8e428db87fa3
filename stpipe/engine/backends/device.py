"""The device of a run."""

from __future__ import annotations

import torch

from stpipe.config.errors import ConfigError, Problem


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
