"""The activation of a cross-encoder's scores: by name, as a callable, and as the format stores it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from stpipe.config.errors import ConfigError
from stpipe.models.modules.dense import build_activation

Activation = Callable[[Tensor], Tensor]


def default_activation(num_labels: int) -> Activation:
    """Sigmoid for one score, which makes it a probability; none for classes."""
    return nn.Sigmoid() if num_labels == 1 else nn.Identity()


def as_activation(value: Activation | str, *, trusted: bool = False) -> Activation:
    """A callable, or the one that a name stands for: a class of torch.nn such as Sigmoid, or a dotted path.

    trusted: allow code from outside of torch, which a model directory may name.
    """
    if not isinstance(value, str):
        if not callable(value):
            raise ConfigError(f"activation_fn is {type(value).__name__}, expected a callable or the name of a class of torch.nn")
        return value
    if "." not in value or value.startswith("torch."):
        return build_activation(value)
    if not trusted:
        raise ConfigError(
            f"the activation of this model is '{value}', code from outside of torch. Read it, then load the model with trust_remote_code=True; "
            "or give another one as activation_fn"
        )
    module, _, name = value.rpartition(".")
    try:
        made: Activation = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(f"the activation '{value}' of this model cannot be made: {error}") from error
    return made


def activation_path(activation: Any) -> str:
    """The dotted path of a class that gives this activation without arguments, which is all that the format stores."""
    cls = type(activation)
    path = f"{cls.__module__}.{cls.__qualname__}"
    if not isinstance(activation, nn.Module):
        raise ConfigError(
            f"activation_fn {activation!r} cannot be stored, because it is no torch.nn.Module; use one, such as torch.nn.Sigmoid()"
        )
    if path.startswith("torch.") and repr(cls()) != repr(activation):
        raise ConfigError(f"activation_fn {activation!r} cannot be stored: only its class is, which by default is {cls()!r}")
    return path
