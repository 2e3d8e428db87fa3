"""Every default exists, fits its format, and what has none says so."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stpipe.config.errors import ConfigError
from stpipe.config.formats import FORMATS
from stpipe.config.registry import LOSSES
from stpipe.losses.defaults import DEFAULT_LOSSES, default_loss


@pytest.mark.parametrize(("kind", "format"), [(k, f) for k, table in DEFAULT_LOSSES.items() for f in table])
def test_a_default_can_be_trained_on_its_format(kind: str, format: str) -> None:
    cls = LOSSES.get(default_loss(format, kind))
    assert format in FORMATS
    assert format in cls.formats  # type: ignore[attr-defined]
    assert kind in cls.kinds  # type: ignore[attr-defined]


def test_what_has_no_default_lists_what_has() -> None:
    with pytest.raises(ConfigError, match="no default loss for a dense model on data of format 'text' .*pair-score"):
        default_loss("text", "dense")
    with pytest.raises(ConfigError, match="none"):
        default_loss("pair", "no_such_kind")


def test_the_table_is_read_without_torch() -> None:
    code = "import sys; import stpipe.config.defaults as d; assert d.default_loss('pair', 'dense') == 'mnrl'; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
