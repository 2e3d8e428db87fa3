"""The score of a language model equals its definition, without logits of all words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from stpipe.core.tokens import Tokens
from stpipe.models.encoder import Encoder
from stpipe.models.modules import CausalLanguageModel, LogitScore
from tests.models.tiny import VOCAB, make_tokenizer, make_tokens
from tests.models.tiny_scores import CAUSAL, DROPOUT, causal_lm, one_by_one

LENGTHS = [30, 19, 19, 12, 7, 3]
YES, NO = VOCAB["a"], VOCAB["b"]


def encoder_of(family: str, *, false_token_id: int | None = NO, **changes: object) -> Encoder:
    backbone = CausalLanguageModel(causal_lm(family, **changes), tokenizer=make_tokenizer())
    return Encoder([backbone, LogitScore(YES, false_token_id=false_token_id)]).eval()


def reference(family: str, tokens: Tokens, *, false: bool) -> Tensor:
    """(N, 1) by the definition, in float64 and a text at a time through the untouched model."""
    logits = torch.stack([part[-1] for part in logits_of_texts(family, tokens)]).double()
    return (logits[:, YES] - (logits[:, NO] if false else 0))[:, None].float()


def logits_of_texts(family: str, tokens: Tokens) -> list[Tensor]:
    model = causal_lm(family)
    return [one_by_one(model, tokens.rows(torch.tensor([i])), types=False)[0] for i in range(len(tokens))]


@pytest.mark.parametrize("false", [True, False])
@pytest.mark.parametrize("family", CAUSAL)
def test_scores_by_the_definition(family: str, false: bool) -> None:
    tokens = make_tokens(LENGTHS)
    expected = reference(family, tokens, false=false)
    assert float((expected - expected[0]).abs().max()) > 1e-2
    encoder = encoder_of(family, false_token_id=NO if false else None)
    assert encoder.choose_layout().startswith("packed") and encoder.embedding_dim == 1
    for layout in ("packed", "padded"):
        encoder.layout = layout
        with torch.no_grad():
            torch.testing.assert_close(encoder(tokens).values, expected, rtol=1e-5, atol=1e-5)


def test_a_model_that_is_run_whole_gives_the_same() -> None:
    tokens = make_tokens(LENGTHS)
    encoder = encoder_of("qwen3")
    assert isinstance(encoder.backbone, CausalLanguageModel)
    encoder.backbone.pick = None
    assert encoder.choose_layout().startswith("padded")
    with torch.no_grad():
        torch.testing.assert_close(encoder(tokens).values, reference("qwen3", tokens, false=True), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", CAUSAL)
def test_no_logits_of_all_words_are_made(family: str) -> None:
    encoder = encoder_of(family)
    backbone = encoder.backbone
    assert isinstance(backbone, CausalLanguageModel) and backbone.last_layer == "lm_head" and backbone.head_reason.startswith("apart")
    calls: list[int] = []
    backbone.model.lm_head.register_forward_hook(lambda *args: calls.append(1))
    encoder(make_tokens(LENGTHS))
    assert not calls
    backbone.last_layer = None
    encoder(make_tokens(LENGTHS))
    assert calls, "the hook sees the layer where it is used"


def test_a_head_whose_last_layer_stands_elsewhere_gives_the_same() -> None:
    tokens = make_tokens(LENGTHS)
    encoder = encoder_of("gemma2")
    assert isinstance(encoder.backbone, CausalLanguageModel)
    encoder.backbone.last_layer = None
    with torch.no_grad():
        torch.testing.assert_close(encoder(tokens).values, reference("gemma2", tokens, false=True), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_gradients_equal_those_of_the_whole_model(family: str) -> None:
    """Also where the words are tied to the embeddings, which then get both shares."""
    tokens = make_tokens(LENGTHS)
    found = {}
    for layout in ("whole", "padded", "packed"):
        encoder = encoder_of(family, **DROPOUT)
        assert isinstance(encoder.backbone, CausalLanguageModel)
        if layout == "whole":
            encoder.backbone.pick = None
        else:
            encoder.layout = layout
        values = encoder(tokens).values
        (values * torch.linspace(-1, 1, values.numel()).cos()[:, None]).sum().backward()
        found[layout] = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    expected = found["whole"]
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 1e-3 and len(expected) > 10
    for layout in ("padded", "packed"):
        assert found[layout].keys() == expected.keys()
        for name, grad in expected.items():
            assert float((found[layout][name] - grad).abs().max()) <= 1e-5 * largest, (layout, name)


def test_the_score_is_stored(tmp_path: Path) -> None:
    LogitScore(7, false_token_id=9).save(tmp_path / "both")
    again = LogitScore.load(tmp_path / "both")
    assert isinstance(again, LogitScore) and (again.true_token_id, again.false_token_id) == (7, 9)
    LogitScore(7).save(tmp_path / "one")
    alone = LogitScore.load(tmp_path / "one")
    assert isinstance(alone, LogitScore) and alone.false_token_id is None
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == ["config.json"]
