"""Attention of one token of each text against the definition, a text at a time in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stpipe.ops.attention import packed_attention
from stpipe.ops.packing import Packing
from stpipe.ops.picked_attention import narrow_inputs, picked_attention

LENGTHS = [7, 7, 3, 1, 5]
HEADS, WIDTH = 4, 8
SCALE = 0.3


class Attention(nn.Module):
    """Keys and values as BERT names them, or with other names as DistilBERT does."""

    is_causal = False

    def __init__(self, names: tuple[str, str] = ("key", "value"), *, out: int = HEADS * WIDTH) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        for name in names:
            layer = nn.Linear(HEADS * WIDTH, out).double()
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.4)
            setattr(self, name, layer)


def inputs() -> tuple[Tensor, Tensor, Packing]:
    """(query (H, N, d), hidden states (1, T, D), packing) with a token picked in each text."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor(LENGTHS)
    query = torch.randn(HEADS, len(LENGTHS), WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
    hidden = torch.randn(1, sum(LENGTHS), HEADS * WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
    packing = replace(Packing.of(lengths, torch.device("cpu")), picked=lengths.cumsum(0) - lengths, whole=hidden)
    return query, hidden, packing


def naive(module: Attention, names: tuple[str, str], query: Tensor, hidden: Tensor) -> Tensor:
    """(1, N, H, d)"""
    rows, start = [], 0
    for n, length in enumerate(LENGTHS):
        text = hidden[0, start : start + length]
        key, value = (getattr(module, name)(text).view(length, HEADS, WIDTH) for name in names)
        heads = []
        for h in range(HEADS):
            weights = torch.stack([query[h, n] @ key[t, h] * SCALE for t in range(length)]).softmax(0)
            heads.append(sum(weights[t] * value[t, h] for t in range(length)))
        rows.append(torch.stack(heads))
        start += length
    return torch.stack(rows)[None]


@pytest.mark.parametrize("names", [("key", "value"), ("k_lin", "v_lin")])
def test_equals_the_definition(names: tuple[str, str]) -> None:
    module = Attention(names)
    query, hidden, packing = inputs()
    found, expected = picked_attention(module, query, packing, 0.0, SCALE), naive(module, names, query, hidden)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.linspace(-2, 2, found.numel(), dtype=found.dtype).view(found.shape).cos()
    wanted = [query, hidden, *module.parameters()]
    grads = [torch.autograd.grad((out * upstream).sum(), wanted) for out in (found, expected)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)
    assert min(float(g.abs().max()) for g in grads[1][:3]) > 1e-3


def test_the_registered_function_takes_it() -> None:
    module = Attention()
    query, _, packing = inputs()
    unused = torch.zeros(1, HEADS, len(LENGTHS), WIDTH, dtype=torch.float64)
    found, weights = packed_attention(module, query[None], unused, unused, None, packing=packing, scaling=SCALE)
    assert weights is None
    torch.testing.assert_close(found, picked_attention(module, query, packing, 0.0, SCALE))


def test_half_precision_is_computed_in_float32() -> None:
    module = Attention()
    query, hidden, packing = inputs()
    expected = picked_attention(module, query, packing, 0.0, SCALE)
    found = picked_attention(module.bfloat16(), query.bfloat16(), replace(packing, whole=hidden.bfloat16()), 0.0, SCALE)
    assert found.dtype == torch.bfloat16
    assert float((found.double() - expected).abs().max()) <= 3e-2 * float(expected.abs().max())


def test_dropout_is_of_the_weights() -> None:
    """All weights of a text that has one token are 1, so its value is dropped, or divided by what is kept."""
    module = Attention()
    query, hidden, packing = inputs()
    torch.manual_seed(0)
    alone = LENGTHS.index(1)
    value = module.value(hidden[0, sum(LENGTHS[:alone])]).view(HEADS, WIDTH)
    drawn = torch.stack([picked_attention(module, query, packing, 0.25, SCALE)[0, alone] for _ in range(200)])
    kept = drawn.abs().amax(-1) > 0
    assert 0.65 < float(kept.float().mean()) < 0.85
    torch.testing.assert_close(drawn[kept], (value / 0.75).expand_as(drawn)[kept])


@pytest.mark.parametrize(
    ("module", "message"),
    [(nn.Linear(2, 2), "keys of Linear"), (Attention(out=HEADS * WIDTH // 2), "groups of heads")],
)
def test_other_attention_is_refused(module: nn.Module, message: str) -> None:
    query, _, packing = inputs()
    with pytest.raises(NotImplementedError, match=message):
        picked_attention(module, query, packing, 0.0, SCALE)


def test_causal_attention_is_refused() -> None:
    query, _, packing = inputs()
    with pytest.raises(NotImplementedError, match="do not see the whole text"):
        packed_attention(Attention(), query[None], query[None], query[None], None, packing=packing, is_causal=True)


def test_what_goes_into_the_layer() -> None:
    _, hidden, packing = inputs()
    plain = replace(packing, picked=None, whole=None)
    assert (
        narrow_inputs(nn.Identity(), (hidden, "mask"), {"packing": plain}) is None and narrow_inputs(nn.Identity(), (hidden,), {}) is None
    )
    found = narrow_inputs(nn.Identity(), (hidden, "mask"), {"packing": replace(plain, picked=packing.picked), "other": 1})
    assert found is not None
    (picked, mask), kwargs = found
    starts = [sum(LENGTHS[:n]) for n in range(len(LENGTHS))]
    torch.testing.assert_close(picked, hidden[:, starts])
    assert mask == "mask" and kwargs["other"] == 1 and kwargs["packing"].whole is hidden
