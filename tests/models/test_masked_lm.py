"""The head is taken apart without changing the model; SPLADE through it equals logits that are pooled as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM

from stpipe.config.errors import ConfigError
from stpipe.core.tokens import Tokens
from stpipe.models.encoder import Encoder
from stpipe.models.modules import MaskedLanguageModel
from stpipe.models.modules.masked_lm import VocabularyProjection, take_head_apart
from tests.models.tiny import VOCAB, make_backbone, make_tokenizer, make_tokens
from tests.models.tiny_splade import DROPOUT_OFF, MASKED, make_splade, masked_lm

LENGTHS = [30, 19, 19, 12, 7, 3]
WHOLE = ("deberta",)  # its head is a product with the embeddings, not a linear layer


def reference(family: str, tokens: Tokens, *, pooling: str, activation: str) -> Tensor:
    """(N, V) weights by the definition, one text at a time through the untouched model."""
    model = masked_lm(family)
    rows = []
    for ids in tokens.ids.split(tokens.lengths.tolist()):
        with torch.no_grad():
            logits = model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]).logits[0].double()
        weights = torch.log1p(logits.relu())
        weights = torch.log1p(weights) if activation == "log1p_relu" else weights
        rows.append(weights.amax(0) if pooling == "max" else weights.sum(0))
    return torch.stack(rows).float()


@pytest.mark.parametrize("family", MASKED)
@pytest.mark.parametrize("pooling", ["max", "sum"])
def test_weights_equal_the_definition(family: str, pooling: str) -> None:
    tokens = make_tokens(LENGTHS)
    activation = "relu" if pooling == "max" else "log1p_relu"
    expected = reference(family, tokens, pooling=pooling, activation=activation)
    assert 0.05 < float((expected > 0).float().mean()) < 1, "all or no words active proves little"
    encoder = make_splade(family, pooling=pooling, activation=activation)
    encoder.choose_layout()
    for layout in dict.fromkeys(("padded", encoder.layout)):
        encoder.layout = layout
        with torch.no_grad():
            torch.testing.assert_close(encoder(tokens).values, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("family", [f for f in MASKED if f not in WHOLE])
def test_no_logits_are_made(family: str) -> None:
    backbone = make_splade(family).backbone
    assert isinstance(backbone, MaskedLanguageModel) and backbone.head_reason.startswith("apart"), backbone.head_reason
    tokens = make_tokens(LENGTHS)
    out = backbone({"input_ids": tokens.ids, "lengths": tokens.lengths})
    assert out["token_embeddings"].shape[1] == out["vocabulary"].weight.shape[1] < len(VOCAB)
    assert out["vocabulary"].weight.shape[0] == len(VOCAB)


def gradients(encoder: Encoder, tokens: Tokens) -> dict[str, Tensor]:
    encoder.zero_grad()
    values = encoder(tokens).values
    (values * torch.linspace(-1, 1, values.numel()).cos().reshape(values.shape)).sum().backward()
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", [f for f in MASKED if f not in WHOLE])
def test_gradients_equal_those_of_whole_logits(family: str) -> None:
    """Tied weights get both shares: as embedding and as vocabulary."""
    tokens = make_tokens(LENGTHS)
    apart, whole = make_splade(family, **DROPOUT_OFF), make_splade(family, **DROPOUT_OFF)
    layer = whole.backbone.model.get_output_embeddings()
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    plain.weight, plain.bias = layer.weight, layer.bias
    whole.backbone.model.set_output_embeddings(plain)
    expected, found = gradients(whole, tokens), gradients(apart, tokens)
    assert found.keys() == expected.keys() and len(found) > 10
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 1e-3
    for name, grad in expected.items():
        assert float((found[name] - grad).abs().max()) <= 1e-5 * largest, name


def test_saved_weights_are_those_of_the_model(tmp_path: Path) -> None:
    model = masked_lm("bert")
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    MaskedLanguageModel(model, tokenizer=make_tokenizer()).save(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    for name, value in expected.items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
    layer = again.get_output_embeddings()
    assert layer.weight is again.get_input_embeddings().weight and not isinstance(layer, VocabularyProjection)


def test_a_model_without_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="no masked-language-model head"):
        take_head_apart(make_backbone("bert").model)


def test_half_precision_weights_are_taken_apart() -> None:
    assert take_head_apart(masked_lm("bert").to(torch.bfloat16)).startswith("apart")
