from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from stpipe.config.errors import ConfigError
from stpipe.ops.activations import ActivationName, activation

NAMES = get_args(ActivationName)


@pytest.mark.parametrize("name", NAMES)
def test_acts_on_each_number_alone_and_holds_nothing(name: str) -> None:
    made = activation(name)
    assert isinstance(made, nn.Module)
    assert not list(made.parameters())
    x = torch.linspace(-3, 3, 13)
    whole = made(x)
    torch.testing.assert_close(whole, torch.cat([made(part) for part in x.split(1)]))
    assert torch.equal(whole, made(x)), "no random numbers"


def test_what_is_no_activation_of_one_number_is_refused() -> None:
    assert len(NAMES) > 15
    for name in ("Softmax", "Linear", "Dropout", "PReLU", "sigmoid"):
        with pytest.raises(ConfigError, match=f"unknown activation '{name}'.*Known: .*Identity.*Sigmoid"):
            activation(name)
    with pytest.raises(ConfigError, match="Did you mean 'Sigmoid'"):
        activation("sigmoid")
