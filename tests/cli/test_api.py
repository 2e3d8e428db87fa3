from __future__ import annotations

import pytest

from stpipe.cli.api import train
from stpipe.config.errors import ConfigError


def test_mistakes_are_exceptions_with_their_exit_code():
    with pytest.raises(ConfigError, match="Did you mean 'cosent_stsb'") as caught:
        train(["+recipe=cosent_stb"])
    assert caught.value.exit_code == 2
