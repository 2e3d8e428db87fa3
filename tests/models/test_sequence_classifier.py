"""Base model and head are run apart without changing what the model gives; what cannot be taken apart is run whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from stpipe.config.errors import ConfigError
from stpipe.core.tokens import Tokens
from stpipe.models.encoder import Encoder
from stpipe.models.modules import SequenceClassifier
from tests.models.tiny import make_tokenizer, make_tokens
from tests.models.tiny_scores import DROPOUT, FAMILIES, WHOLE, classifier, knows_types, make_pair_tokens, one_by_one

LENGTHS = [(3, 20), (10, 10), (1, 4), (1, 4), (12, 2), (7, 25)]
PICKS = {
    "modernbert-mean": "mean",
    **dict.fromkeys(("qwen3", "mistral", "llama"), "last token"),
}
PADDED = ("mpnet", "deberta", *WHOLE)


def encoder_of(family: str, *, num_labels: int = 3, layout: str | None = None, **changes: object) -> Encoder:
    encoder = Encoder([SequenceClassifier(classifier(family, num_labels=num_labels, **changes), tokenizer=make_tokenizer())]).eval()
    if layout is None:
        encoder.choose_layout()
    else:
        encoder.layout = layout
    return encoder


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_whole_model(family: str, num_labels: int) -> None:
    types = knows_types(family)
    tokens = make_pair_tokens(LENGTHS, types=types)
    expected = one_by_one(classifier(family, num_labels=num_labels), tokens, types=types)
    spread = float((expected - expected[0]).abs().max())
    assert spread > 1e-2, "texts that all score alike prove little"
    encoder = encoder_of(family, num_labels=num_labels)
    assert encoder.layout == ("padded" if family in PADDED else "packed"), encoder.layout_reason
    assert encoder.embedding_dim == num_labels
    for layout in dict.fromkeys(("padded", encoder.layout)):
        encoder.layout = layout
        with torch.no_grad():
            together = encoder(tokens).values
            alone = torch.cat([encoder(tokens.rows(torch.tensor([i]))).values for i in range(len(tokens))])
        for found in (together, alone):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_segments_matter(family: str) -> None:
    encoder = encoder_of(family)
    assert knows_types(family)
    tokens = make_pair_tokens(LENGTHS)
    without = Tokens(tokens.ids, tokens.lengths)
    for layout in ("packed", "padded"):
        encoder.layout = layout
        with torch.no_grad():
            assert float((encoder(tokens).values - encoder(without).values).abs().min()) > 1e-6


def test_segments_that_a_model_does_not_know_are_left_out() -> None:
    encoder = encoder_of("distilbert")
    tokens = make_pair_tokens(LENGTHS)
    for layout in ("packed", "padded"):
        encoder.layout = layout
        torch.testing.assert_close(encoder(tokens).values, encoder(Tokens(tokens.ids, tokens.lengths)).values)


@pytest.mark.parametrize("family", FAMILIES)
def test_which_vector_the_head_takes(family: str) -> None:
    backbone = encoder_of(family).backbone
    assert isinstance(backbone, SequenceClassifier)
    assert backbone.pick == (None if family in WHOLE else PICKS.get(family, "first token"))
    if backbone.pick is not None:
        assert backbone.head_reason.startswith("apart") and backbone.pick in backbone.head_reason


def gradients(encoder: Encoder, tokens: Tokens) -> dict[str, Tensor]:
    encoder.zero_grad()
    values = encoder(tokens).values
    (values * torch.linspace(-1, 1, values.numel()).cos().reshape(values.shape)).sum().backward()
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in WHOLE])
def test_gradients_equal_those_of_the_whole_model(family: str) -> None:
    types = knows_types(family)
    tokens = make_pair_tokens(LENGTHS, types=types)
    whole = encoder_of(family, layout="padded", **DROPOUT)
    assert isinstance(whole.backbone, SequenceClassifier)
    whole.backbone.pick = None
    expected = gradients(whole, tokens)
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 1e-3 and len(expected) > 10
    encoder = encoder_of(family, **DROPOUT)
    for layout in dict.fromkeys(("padded", encoder.layout)):
        encoder.layout = layout
        found = gradients(encoder, tokens)
        assert found.keys() == expected.keys()
        for name, grad in expected.items():
            assert float((found[name] - grad).abs().max()) <= 1e-5 * largest, (layout, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_trained(family: str) -> None:
    """Poolers, which a model of embeddings leaves unused, are a part of the head here."""
    encoder = encoder_of(family)
    assert all(p.requires_grad for p in encoder.parameters())
    found = gradients(encoder, make_pair_tokens(LENGTHS, types=knows_types(family)))
    assert found.keys() == {name for name, _ in encoder.named_parameters()}


def test_gradients_with_recomputed_activations() -> None:
    tokens = make_pair_tokens(LENGTHS)
    encoder = encoder_of("bert", layout="packed", **DROPOUT).train()
    expected = gradients(encoder, tokens)
    encoder.backbone.enable_gradient_checkpointing()
    found = gradients(encoder, tokens)
    assert found.keys() == expected.keys() and max(float(g.abs().max()) for g in expected.values()) > 1e-3
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad)


def test_dropout_of_the_head_is_on_in_training_only() -> None:
    tokens = make_pair_tokens(LENGTHS)
    encoder = encoder_of("bert", layout="packed", **{**DROPOUT, "classifier_dropout": 0.5})
    assert torch.equal(encoder(tokens).values, encoder(tokens).values)
    encoder.train()
    assert float((encoder(tokens).values - encoder(tokens).values).detach().abs().max()) > 1e-3


def test_the_last_token_is_the_last_that_is_no_padding() -> None:
    """A text may end in the padding token itself; the architecture then takes the one before."""
    tokens = make_tokens([9, 6, 4])
    ends = tokens.lengths.cumsum(0) - 1
    ids = tokens.ids.clone()
    ids[ends[:2]] = 0
    ids[ends[0] - 1] = 0
    tokens = Tokens(ids, tokens.lengths)
    expected = one_by_one(classifier("qwen3", num_labels=3), tokens, types=False)
    encoder = encoder_of("qwen3")
    for layout in ("packed", "padded"):
        encoder.layout = layout
        with torch.no_grad():
            torch.testing.assert_close(encoder(tokens).values, expected, rtol=1e-5, atol=1e-5)


def test_no_padding_token_is_needed() -> None:
    """The architecture refuses several texts at once without one; run apart, nothing is padded."""
    tokens = make_tokens([9, 6, 4])
    expected = one_by_one(classifier("qwen3", num_labels=3), tokens, types=False)
    model = classifier("qwen3", num_labels=3)
    model.config.pad_token_id = None
    encoder = Encoder([SequenceClassifier(model, tokenizer=make_tokenizer())]).eval()
    encoder.layout = "packed"
    with torch.no_grad():
        torch.testing.assert_close(encoder(tokens).values, expected, rtol=1e-5, atol=1e-5)
    assert model.config.pad_token_id is None


def test_a_head_that_hardly_looks_at_the_text_is_still_found_out() -> None:
    """Its bias is a million times as large as what the text contributes, so every pick comes close."""
    model = classifier("bert", num_labels=2)
    with torch.no_grad():
        model.classifier.weight *= 1e-5
        model.classifier.bias += 10
    assert SequenceClassifier(model, tokenizer=make_tokenizer()).pick == "first token"


def test_what_is_run_whole_cannot_be_packed() -> None:
    encoder = encoder_of("albert")
    assert encoder.layout_reason == "padded: the head of AlbertForSequenceClassification needs more than one vector of each text"
    with pytest.raises(ConfigError, match="texts cannot be packed: the head of Albert"):
        encoder.layout = "packed"


def test_a_model_that_breaks_is_run_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no such kernel")

    model = classifier("bert")
    monkeypatch.setattr(model.bert.pooler, "forward", fail)
    backbone = SequenceClassifier(model, tokenizer=make_tokenizer())
    assert backbone.pick is None and "no such kernel" in backbone.head_reason


def test_the_model_itself_stays_as_it_was(tmp_path: Path) -> None:
    model = classifier("bert", num_labels=3)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.get_rng_state()
    backbone = SequenceClassifier(model.train(), tokenizer=make_tokenizer())
    assert model.training and torch.equal(torch.get_rng_state(), before)
    Encoder([backbone])(make_tokens([5, 8]))
    assert model.state_dict().keys() == expected.keys() and not model._forward_hooks and not model.bert._forward_hooks
    backbone.save(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)


def test_half_precision_is_taken_apart() -> None:
    assert SequenceClassifier(classifier("bert").to(torch.bfloat16), tokenizer=make_tokenizer()).pick == "first token"


NARROW = ("bert", "distilbert", "roberta", "xlm-roberta", "electra")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_sees_one_token_a_text(family: str) -> None:
    """Where the architecture allows it; that scores and gradients stay is tested above, for every family."""
    encoder = encoder_of(family)
    backbone = encoder.backbone
    assert isinstance(backbone, SequenceClassifier) and backbone.last_layer_picks == (family in NARROW)
    if family not in NARROW:
        return
    layers = [part for part in backbone.network.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == 2]
    seen: list[tuple[int, ...]] = []
    for layer in layers[0]:
        last = [part for part in layer.modules() if isinstance(part, torch.nn.LayerNorm)][-1]
        last.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape[:2])))
    tokens = make_pair_tokens(LENGTHS, types=knows_types(family))
    encoder(tokens)
    assert seen == [(1, tokens.num_tokens), (1, len(tokens))]
    seen.clear()
    encoder.features(tokens, hidden_states=True)
    assert seen == [(1, tokens.num_tokens)] * 2, "whoever asks for hidden states gets those of all tokens"


def test_a_last_layer_of_another_form_is_left_alone() -> None:
    backbone = SequenceClassifier(classifier("bert"), tokenizer=make_tokenizer())
    attention = backbone.model.bert.encoder.layer[-1].attention.self
    attention.key = torch.nn.Sequential(attention.key)
    encoder = Encoder([backbone]).eval()
    assert encoder.choose_layout().startswith("packed") and not backbone.last_layer_picks
    assert not backbone.model.bert.encoder.layer[-1]._forward_pre_hooks
    tokens = make_pair_tokens(LENGTHS)
    torch.testing.assert_close(encoder(tokens).values, one_by_one(classifier("bert"), tokens, types=True), rtol=1e-5, atol=1e-5)


def test_half_precision_on_a_cpu() -> None:
    """Rows are filled up to a round number of tokens there; the fillers are texts of their own."""
    tokens = make_pair_tokens(LENGTHS)
    encoder = encoder_of("bert")
    expected = encoder(tokens).values
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder(tokens).values
    assert found.shape == expected.shape and float((found - expected).abs().max()) <= 5e-2 * float(expected.abs().max())
