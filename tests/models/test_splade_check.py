"""Start weights from which SPLADE cannot be trained are told apart from those it can."""

from __future__ import annotations

import pytest
import torch

from stpipe.models import SparseEncoder, splade_check
from stpipe.models.modules import MaskedLanguageModel
from stpipe.models.splade_check import check_base
from tests.models.tiny import make_tokens
from tests.models.tiny_splade import splade_model

QUERIES = make_tokens([6] * 12, seed=1)
DOCUMENTS = make_tokens([20] * 12, seed=2)


def bias(model: SparseEncoder, change: float) -> SparseEncoder:
    words = word_bias(model)
    with torch.no_grad():
        words += change
    return model


def word_bias(model: SparseEncoder) -> torch.Tensor:
    backbone = model.encoder.backbone
    assert isinstance(backbone, MaskedLanguageModel) and backbone.vocabulary is not None and backbone.vocabulary.bias is not None
    return backbone.vocabulary.bias


def test_usable() -> None:
    model = bias(splade_model(), -0.4)
    found = check_base(model, QUERIES, QUERIES)  # each query is its own document
    assert found.problem is None and found.pairs == 12
    assert 0 < found.active_share < 0.5 and found.found > 0.8
    assert "own document first" in found.line()


def test_saturated() -> None:
    found = check_base(bias(splade_model(), 50.0), QUERIES, DOCUMENTS)
    assert found.active_share > 0.9 and "active in a text" in (found.problem or "")


def test_silent() -> None:
    found = check_base(bias(splade_model(), -50.0), QUERIES, DOCUMENTS)
    assert found.silent == 1.0 and "no active word" in (found.problem or "")


def test_alike() -> None:
    model = bias(splade_model(), -60.0)
    with torch.no_grad():
        word_bias(model)[:9] += 200.0  # the same few words, heavily, in every text
    found = check_base(model, QUERIES, DOCUMENTS)
    assert found.alike > 0.98 and "all texts alike" in (found.problem or "")


def test_weights_are_not_changed() -> None:
    model = splade_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_base(model, QUERIES, DOCUMENTS)
    assert before and all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_texts_are_looked_at_in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of the longest length that a model takes do not all fit into one forward."""
    model = bias(splade_model(), -0.4)
    whole = check_base(model, QUERIES, DOCUMENTS)
    monkeypatch.setattr(splade_check, "TEXTS", 5)
    seen: list[int] = []
    model.encoder.first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]["lengths"].numel()))
    parts = check_base(model, QUERIES, DOCUMENTS)
    assert seen == [5, 5, 2] * 2
    assert parts.found == whole.found and parts.alike == pytest.approx(whole.alike, rel=1e-4)
