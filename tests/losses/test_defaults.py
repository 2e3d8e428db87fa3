"""Every default exists, fits its format, and what has none says so."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest

from stpipe.config.build import build_component
from stpipe.config.builtin import load_components
from stpipe.config.errors import ConfigError
from stpipe.config.formats import FORMATS
from stpipe.config.resolve import name_components
from stpipe.config.schema import build_schema
from stpipe.losses import CoSENTLoss, SpladeLoss
from stpipe.losses.defaults import DEFAULT_LOSSES, default_loss


@pytest.mark.parametrize(("kind", "format"), [(k, f) for k, table in DEFAULT_LOSSES.items() for f in table])
def test_a_default_can_be_trained_on_its_format(kind: str, format: str) -> None:
    loss = build_component("loss", default_loss(format, kind))
    parts = [loss, *loss.inner()]
    assert format in FORMATS
    assert format in parts[-1].formats
    assert all(kind in part.kinds for part in parts)


def test_sparse_models_pay_for_their_terms() -> None:
    assert build_component("loss", default_loss("pair", "sparse")) == SpladeLoss()
    assert build_component("loss", default_loss("pair-score", "sparse")) == SpladeLoss(loss=CoSENTLoss())


def test_a_default_is_a_copy() -> None:
    default_loss("pair-score", "sparse")["loss"]["name"] = "other"
    assert default_loss("pair-score", "sparse")["loss"] == {"name": "cosent"}


def test_keys_without_a_name_go_to_the_default_of_the_format() -> None:
    load_components()
    schema = copy.deepcopy(build_schema())
    schema["$defs"]["model.dense"]["x-kind"] = "sparse"
    given = {
        "model": {"name": "dense"},
        "dataset": {"train": "x", "format": "pair-score"},
        "loss": {"query_weight": 0.1, "loss": {"scale": 5.0}},
    }
    found = build_component("loss", name_components(given, schema)["loss"])
    assert found == SpladeLoss(loss=CoSENTLoss(scale=5.0), query_weight=0.1)


def test_what_has_no_default_lists_what_has() -> None:
    with pytest.raises(ConfigError, match="no default loss for a dense model on data of format 'text' .*pair-score"):
        default_loss("text", "dense")
    with pytest.raises(ConfigError, match="none"):
        default_loss("pair", "no_such_kind")


def test_the_table_is_read_without_torch() -> None:
    code = "import sys; import stpipe.config.defaults as d; assert d.default_loss('pair', 'dense') == {'name': 'mnrl'}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
