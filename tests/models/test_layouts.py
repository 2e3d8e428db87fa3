"""Packed, padded and single texts give the same vectors and the same parameter gradients, whatever the micro-batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stpipe.core.tokens import Tokens
from stpipe.models.encoder import Encoder
from tests.models.tiny import PACKED, PADDED, make_encoder, make_tokens

LENGTHS = [30, 19, 19, 19, 12, 7, 7, 3]


def gradients(encoder: Encoder, tokens: Tokens, parts: list[list[int]]) -> tuple[Tensor, dict[str, Tensor]]:
    """Embeddings, and parameter gradients of a loss that couples nothing, computed part by part."""
    encoder.zero_grad()
    weights = torch.linspace(-1, 1, len(tokens) * encoder.embedding_dim).reshape(len(tokens), -1).cos()
    rows = []
    for part in parts:
        values = encoder(tokens.rows(torch.tensor(part))).values
        (values * weights[part]).sum().backward()
        rows.append(values.detach())
    return torch.cat(rows), {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


def assert_same(found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-5)
    assert found[1].keys() == expected[1].keys()
    largest = max(float(g.abs().max()) for g in expected[1].values())
    assert largest > 1e-3, "a reference without gradients proves nothing"
    for name, grad in expected[1].items():
        assert float((found[1][name] - grad).abs().max()) <= 1e-5 * largest, name


@pytest.mark.parametrize("family", [*PACKED, *PADDED])
def test_gradients_equal_those_of_single_texts(family: str) -> None:
    encoder = make_encoder(family)
    tokens = make_tokens(LENGTHS)
    texts = list(range(len(tokens)))
    encoder.layout = "padded"
    single = gradients(encoder, tokens, [[i] for i in texts])
    assert_same(gradients(encoder, tokens, [texts]), single)
    reason = encoder.choose_layout()
    assert encoder.layout == ("packed" if family in PACKED else "padded"), reason
    assert reason.startswith(encoder.layout)
    for parts in ([texts], [texts[:3], texts[3:]], [[i] for i in texts]):
        assert_same(gradients(encoder, tokens, parts), single)


@pytest.mark.parametrize("family", PACKED)
def test_order_of_texts_does_not_matter(family: str) -> None:
    encoder = make_encoder(family)
    encoder.layout = "packed"
    tokens = make_tokens(LENGTHS)
    order = torch.tensor([5, 0, 7, 2, 1, 6, 3, 4])
    with torch.no_grad():
        torch.testing.assert_close(encoder(tokens.rows(order)).values, encoder(tokens).values[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_gradient_checkpointing_changes_nothing(layout: str) -> None:
    tokens = make_tokens(LENGTHS)
    encoder = make_encoder("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    encoder.layout = layout
    plain = gradients(encoder, tokens, [list(range(len(tokens)))])
    encoder.backbone.enable_gradient_checkpointing()
    assert_same(gradients(encoder, tokens, [list(range(len(tokens)))]), plain)


def test_gradient_checkpointing_repeats_dropout() -> None:
    tokens = make_tokens(LENGTHS)
    encoder = make_encoder("bert", attention_probs_dropout_prob=0.3).train()
    encoder.layout = "packed"

    def seeded() -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(5)
        return gradients(encoder, tokens, [list(range(len(tokens)))])

    plain = seeded()
    encoder.backbone.enable_gradient_checkpointing()
    assert_same(seeded(), plain)
    torch.manual_seed(6)
    other = gradients(encoder, tokens, [list(range(len(tokens)))])
    assert float((other[0] - plain[0]).abs().max()) > 1e-3, "dropout is off, so the comparison proved nothing"


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_hidden_layers(layout: str) -> None:
    encoder = make_encoder("bert")
    encoder.layout = layout
    tokens = make_tokens(LENGTHS)
    rep = encoder(tokens, frozenset({"layer_1", "layer_2"}))
    assert rep.extras["layer_1"].shape == rep.values.shape
    torch.testing.assert_close(rep.extras["layer_2"], rep.values)
    assert float((rep.extras["layer_1"] - rep.values).detach().abs().max()) > 1e-3


def test_token_types_reach_the_model() -> None:
    encoder = make_encoder("bert")
    tokens = make_tokens([9, 9, 5])
    types = Tokens(tokens.ids, tokens.lengths, None, (torch.arange(tokens.num_tokens) % 2))
    results = {}
    for layout in ("packed", "padded"):
        encoder.layout = layout
        with torch.no_grad():
            results[layout] = encoder(types).values
            assert float((encoder(tokens).values - results[layout]).abs().max()) > 1e-3
    torch.testing.assert_close(results["packed"], results["padded"], rtol=0, atol=1e-5)
