"""Activations by the names of their torch.nn classes: those that act on each number alone and hold no parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor, nn

from stpipe.config.errors import ConfigError
from stpipe.config.suggest import unknown_name

ActivationName = Literal[
    "Identity",
    "Sigmoid",
    "Tanh",
    "ReLU",
    "ReLU6",
    "LeakyReLU",
    "ELU",
    "SELU",
    "CELU",
    "GELU",
    "SiLU",
    "Mish",
    "Softplus",
    "Softsign",
    "LogSigmoid",
    "Hardtanh",
    "Hardsigmoid",
    "Hardswish",
    "Hardshrink",
    "Softshrink",
    "Tanhshrink",
]


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation of a name, with torch's defaults.

    Raises:
        ConfigError: no such activation; the message lists all.
    """
    known = get_args(ActivationName)
    if name not in known:
        raise ConfigError(unknown_name("activation", name, list(known)))
    made: Callable[[Tensor], Tensor] = getattr(nn, name)()
    return made
