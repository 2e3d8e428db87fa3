"""The self-check that decides between packed and padded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stpipe.config.errors import ConfigError
from stpipe.models.layout import check_packing, probe
from tests.models.tiny import make_backbone, make_encoder


def test_reason_names_the_model_and_state_is_restored() -> None:
    encoder = make_encoder("mpnet").train()
    before = torch.get_rng_state()
    reason = encoder.choose_layout()
    assert reason.startswith("padded: MPNetModel")
    assert encoder.layout_reason == reason
    assert encoder.training and encoder.backbone.model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_probe_is_longer_than_the_sliding_window() -> None:
    assert int(probe(make_backbone("modernbert")).lengths.max()) == 23  # window 4 to a side
    assert int(probe(make_backbone("modernbert", sliding_window=40)).lengths.max()) == 49
    assert int(probe(make_backbone("mistral", sliding_window=100)).lengths.max()) == 64  # no more positions


def test_a_window_that_is_not_handed_over_is_found_out() -> None:
    """A model whose layers keep their window to themselves comes out wrong when packed, and is refused."""
    backbone = make_backbone("modernbert")
    for layer in backbone.model.layers:
        layer.attn.sliding_window = None
    exact, reason = check_packing(backbone)
    assert not exact and "differs from single texts" in reason


def test_a_long_window_that_is_not_handed_over_is_refused() -> None:
    backbone = make_backbone("modernbert", sliding_window=5000, max_position_embeddings=9000)
    for layer in backbone.model.layers:
        layer.attn.sliding_window = None
    exact, reason = check_packing(backbone)
    assert not exact and "sliding window of 5000" in reason


def test_an_attention_that_the_user_chose_is_kept() -> None:
    backbone = make_backbone("bert")
    backbone.padded_attention = "flash_attention_2"
    exact, reason = check_packing(backbone)
    assert not exact and "flash_attention_2" in reason


def test_a_model_that_breaks_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = make_backbone("bert")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(backbone.model.embeddings, "forward", fail)
    exact, reason = check_packing(backbone)
    assert not exact and "no such kernel" in reason and backbone.layout == "padded"


def test_packing_a_model_outside_the_registry_is_an_error() -> None:
    encoder = make_encoder("deberta")
    with pytest.raises(ConfigError, match="attention registry"):
        encoder.layout = "packed"
    with pytest.raises(ConfigError, match="unknown layout"):
        encoder.layout = "jagged"
