"""The decoder of TSDAE: what it computes, what it shares with the encoder, which models can have one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stpipe.config.errors import ConfigError
from stpipe.core.batch import Targets
from stpipe.core.context import StepContext
from stpipe.core.reps import RepBatch
from stpipe.core.tokens import Tokens
from stpipe.engine.objectives import Objectives, model_facts
from stpipe.losses import DenoisingAutoEncoderLoss
from stpipe.models import decoder as module
from stpipe.models.decoder import VectorDecoder, make_decoder, parts
from stpipe.models.encoder import Encoder
from stpipe.models.modules import Dense
from tests.models.tiny import make_encoder, make_tokens

LENGTHS = [3, 9, 4, 20, 5, 2, 7]
FAMILIES = ("bert", "roberta", "xlm-roberta", "electra")


def built(family: str = "bert", **changes: Any) -> tuple[Encoder, VectorDecoder]:
    torch.manual_seed(1)
    encoder = make_encoder(family, **changes)
    return encoder, make_decoder(encoder).eval()


def one_by_one(decoder: VectorDecoder, vectors: Tensor, tokens: Tokens) -> Tensor:
    """Each text alone, each token from the tokens before it only."""
    found = []
    for x, ids in zip(vectors, tokens.ids.split(tokens.lengths.tolist()), strict=True):
        total = x.new_zeros(())
        for t in range(1, len(ids)):
            logits = decoder.model(input_ids=ids[None, :t], encoder_hidden_states=x[None, None]).logits[0, -1]
            total = total - torch.log_softmax(logits, 0)[ids[t]]
        found.append(total)
    return torch.stack(found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("budget", [8, 1024])
def test_likelihoods_and_gradients(family: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUDGET", budget)
    _, decoder = built(family)
    vectors, tokens = torch.randn(7, 32, requires_grad=True), make_tokens([*LENGTHS[:5], 3, 7])
    nll, count = decoder(vectors, tokens)
    assert count.tolist() == [n - 1 for n in tokens.lengths.tolist()]
    expected = one_by_one(decoder, vectors, tokens)
    assert float(expected.min().detach()) > 1
    torch.testing.assert_close(nll, expected, rtol=1e-4, atol=1e-4)
    weights = torch.linspace(0.5, 2, 7)
    inputs = [vectors, *(p for p in decoder.parameters() if p.requires_grad)]
    found = torch.autograd.grad((nll * weights).sum(), inputs, allow_unused=True)
    wanted = torch.autograd.grad((expected * weights).sum(), inputs, allow_unused=True)
    largest = max(float(g.abs().max()) for g in wanted if g is not None)
    assert largest > 1e-2 and wanted[0] is not None and float(wanted[0].abs().max()) > 1e-4
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert float((a - b).abs().max()) <= 1e-4 * largest


def test_texts_of_one_token_have_nothing_to_write() -> None:
    _, decoder = built()
    vectors = torch.randn(2, 32, requires_grad=True)
    nll, count = decoder(vectors, Tokens.from_lists([[2], [2, 7, 3]]))
    assert nll.tolist()[0] == 0 and count.tolist() == [0, 2] and nll.tolist()[1] > 0
    alone, none = decoder(vectors[:1], Tokens.from_lists([[2]]))
    assert alone.tolist() == [0] and none.tolist() == [0]
    alone.sum().backward()


def test_parts_hold_every_text_once_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUDGET", 16)
    lengths = torch.tensor(LENGTHS)
    found = list(parts(lengths))
    assert sorted(torch.cat(found).tolist()) == list(range(len(LENGTHS))) and len(found) > 2
    assert all(len(rows) == 1 or int(lengths[rows].max()) * len(rows) <= 16 for rows in found)
    assert not list(parts(torch.zeros(0, dtype=torch.int64)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_weights_are_one_with_those_of_the_encoder(family: str, layout: str) -> None:
    encoder = make_encoder(family)
    encoder.layout = layout
    decoder = make_decoder(encoder)
    assert encoder.layout == layout
    shared = {id(p) for p in encoder.parameters()}
    own = [name for name, p in decoder.named_parameters() if id(p) not in shared]
    assert own and all(any(part in name.lower() for part in ("cross", "lm_head", "predictions")) for name in own)
    trainable = [name for name, p in encoder.named_parameters() if p.requires_grad]
    inside = {id(p) for p in decoder.parameters()}
    left_out = [name for name, p in encoder.named_parameters() if p.requires_grad and id(p) not in inside]
    assert len(trainable) > 30 and not left_out
    words = decoder.model.get_input_embeddings().weight
    if family != "electra":  # there the words are mapped to the width of the layers
        assert decoder.model.get_output_embeddings().weight is words
    assert words is encoder.backbone.network.get_input_embeddings().weight
    tokens = make_tokens([4, 9, 6])
    nll, count = decoder(encoder(tokens).values, tokens)
    (nll.sum() / count.sum()).backward()
    assert all(p.grad is not None for p in decoder.parameters())


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("distilbert", "cannot make a decoder of a distilbert model"),
        ("qwen3", "needs a model that can have cross-attention, like BERT; found qwen3"),
    ],
)
def test_models_that_cannot_write(family: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_decoder(make_encoder(family))


def test_embeddings_of_another_width_are_refused() -> None:
    encoder = make_encoder("bert", heads=(Dense(32, out_features=8),))
    with pytest.raises(ConfigError, match=r"as wide as the decoder's vectors \(32\), but the model's have 8"):
        make_decoder(encoder)


def test_a_decoder_of_its_own(tmp_path: Path) -> None:
    _, other = built(hidden_dropout_prob=0.0)
    other.model.save_pretrained(tmp_path)
    encoder = make_encoder("bert", seed=4)
    decoder = make_decoder(encoder, str(tmp_path))
    assert not {id(p) for p in encoder.parameters()} & {id(p) for p in decoder.parameters()}
    vectors, tokens = torch.randn(3, 32), make_tokens([4, 9, 6])
    torch.testing.assert_close(decoder.eval()(vectors, tokens)[0], other(vectors, tokens)[0])
    smaller = make_encoder("bert", vocab_size=50)
    with pytest.raises(ConfigError, match="the decoder has 101 words, the encoder 50"):
        make_decoder(smaller, str(tmp_path))


def test_the_objective_learns_to_write() -> None:
    """Encoder and decoder together, as the engine holds them: every weight gets a gradient, the loss falls, texts come back."""
    encoder = make_encoder("bert").train()
    losses = Objectives({"a.b": DenoisingAutoEncoderLoss()}, model_facts(encoder), seed=0)
    whole = torch.nn.ModuleDict({"encoder": encoder, "objectives": losses})
    names = [name for name, _ in whole.named_parameters()]
    assert any(name.startswith("objectives.a_b.learned.DenoisingAutoEncoderLoss.model.") for name in names)
    assert losses.learning == ("a.b",)

    tokens = make_tokens([6, 5, 8, 7], seed=3)
    optimizer = torch.optim.AdamW([p for p in whole.parameters() if p.requires_grad], lr=3e-3)
    values = []
    for step in range(30):
        optimizer.zero_grad()
        torch.manual_seed(step)
        batch = RepBatch.from_values({"anchor": encoder(tokens).values}, targets=Targets(tokens=tokens))
        out = losses["a.b"](batch, StepContext(step=step))
        out.mean.backward()
        if not step:
            assert float(out.count) == 5 + 4 + 7 + 6
            missing = [name for name, p in whole.named_parameters() if p.requires_grad and p.grad is None]
            assert not missing
        optimizer.step()
        values.append(float(out.mean.detach()))
    assert values[-1] < 0.6 * values[0], values
