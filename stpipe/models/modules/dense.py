"""A linear layer on the embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from stpipe.config.errors import ConfigError
from stpipe.models.modules.module import Features, Module


class Dense(Module):
    """activation(x W^T + b), with `use_residual` plus x (through a matrix of its own when the widths differ).

    activation is a class of torch.nn by its dotted path, as the format stores it; no other code is imported.
    """

    type_name = "sentence_transformers.base.modules.dense.Dense"

    def __init__(
        self,
        in_features: int,
        *,
        out_features: int,
        bias: bool = True,
        activation: str = "torch.nn.modules.activation.Tanh",
        use_residual: bool = False,
        input_name: str = "sentence_embedding",
        output_name: str | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.activation_function = build_activation(activation)
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.use_residual = use_residual
        if use_residual and in_features != out_features:
            self.residual = nn.Linear(in_features, out_features, bias=False)
        self.input_name = input_name
        self.output_name = output_name or input_name

    def forward(self, features: Features) -> dict[str, Any]:
        x = features[self.input_name]
        out = self.activation_function(self.linear(x))
        if self.use_residual:
            out = out + (x if self.in_features == self.out_features else self.residual(x))
        return {**features, self.output_name: out}

    @property
    def feature(self) -> str:
        return self.output_name

    def output_dim(self, input_dim: int) -> int:
        return self.out_features

    def config(self) -> dict[str, Any]:
        cls = type(self.activation_function)
        values = {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": f"{cls.__module__}.{cls.__qualname__}",
            "module_input_name": self.input_name,
            "module_output_name": self.output_name,
        }
        return {**values, "use_residual": True} if self.use_residual else values

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Dense:
        return cls(
            int(values["in_features"]),
            out_features=int(values["out_features"]),
            bias=bool(values.get("bias", True)),
            activation=values.get("activation_function") or "torch.nn.modules.activation.Tanh",
            use_residual=bool(values.get("use_residual", False)),
            input_name=values.get("module_input_name") or "sentence_embedding",
            output_name=values.get("module_output_name"),
        )


def build_activation(path: str) -> nn.Module:
    """The activation with a dotted path like torch.nn.modules.activation.Tanh, or a bare name like Tanh or Identity."""
    cls = getattr(nn, path.rsplit(".", 1)[-1], None) if "." not in path or path.startswith("torch.nn.") else None
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ConfigError(
            f"activation_function '{path}' is no module of torch.nn; use one of them, such as torch.nn.modules.activation.Tanh"
        )
    return cls()
