"""Packed attention against attention of each text alone in float64, with masks, windows, groups of heads and dropout."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from stpipe.ops import attention
from stpipe.ops.attention import Packing, blocks_of, packed_attention, padded_attention
from stpipe.ops.dropout import drop_bytes

LENGTHS = [11, 11, 11, 6, 6, 1, 4]
HEADS, WIDTH = 4, 8


def tensors(groups: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    total = sum(LENGTHS)
    return [
        torch.randn(1, h, total, WIDTH, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for h in (HEADS, groups, groups)
    ]


def naive(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, window: int | None, scale: float, factors: list[Tensor] | None = None
) -> Tensor:
    """Every text by itself: softmax(q k^T * scale) * factors @ v -> (1, T, H, d)."""
    k, v = (x.repeat_interleave(HEADS // x.shape[1], dim=1) for x in (k, v))
    outs, start = [], 0
    for i, length in enumerate(LENGTHS):
        a, b, c = (x[0, :, start : start + length] for x in (q, k, v))
        scores = a @ b.transpose(-1, -2) * scale
        for row in range(length):
            for col in range(length):
                if (causal and col > row) or (window is not None and abs(row - col) >= window):
                    scores[:, row, col] = float("-inf")
        weights = scores.softmax(-1)
        outs.append((weights if factors is None else weights * factors[i]) @ c)
        start += length
    return torch.cat(outs, dim=1).transpose(0, 1)[None]


@pytest.mark.parametrize("groups", [HEADS, 2])
@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (False, 3), (True, 4)])
def test_inference_equals_single_texts(groups: int, causal: bool, window: int | None) -> None:
    inputs = tensors(groups)
    packing = Packing.of(torch.tensor(LENGTHS), torch.device("cpu"))
    expected = naive(*inputs, causal=causal, window=window, scale=0.3)
    assert float(expected.detach().std()) > 0.1
    with torch.inference_mode():
        out, _ = packed_attention(SimpleNamespace(is_causal=causal), *inputs, None, packing=packing, scaling=0.3, sliding_window=window)
        short, _ = packed_attention(
            SimpleNamespace(is_causal=causal), *(x.bfloat16() for x in inputs), None, packing=packing, scaling=0.3, sliding_window=window
        )
    torch.testing.assert_close(out.clone(), expected.detach())
    assert short.dtype == torch.bfloat16 and float((short - expected).abs().max()) < 0.1


def gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-2, 2, out.numel(), dtype=out.dtype).view(out.shape).cos()
    return [out, *torch.autograd.grad((out * weights).sum(), inputs)]


@pytest.mark.parametrize("block", [1 << 18, 300, 40], ids=["one-block", "blocks", "heads-apart"])
@pytest.mark.parametrize("groups", [HEADS, 2])
@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (False, 3), (True, 4)])
def test_equals_single_texts(monkeypatch: pytest.MonkeyPatch, block: int, groups: int, causal: bool, window: int | None) -> None:
    monkeypatch.setattr(attention, "BLOCK", block)
    blocks_of.cache_clear()
    inputs = tensors(groups)
    packing = Packing.of(torch.tensor(LENGTHS), torch.device("cpu"))
    module = SimpleNamespace(is_causal=causal)
    expected = gradients(naive(*inputs, causal=causal, window=window, scale=0.3), inputs)
    assert min(float(e.detach().abs().max()) for e in expected) > 0.1
    out, weights = packed_attention(module, *inputs, None, packing=packing, scaling=0.3, sliding_window=window)
    assert weights is None
    for found, wanted in zip(gradients(out, inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    other = padded_attention(*(x[0] for x in inputs), packing, 0.0, 0.3, causal, window)[None]
    for found, wanted in zip(gradients(other, inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    blocks_of.cache_clear()


@pytest.mark.parametrize("block", [1 << 18, 300, 40], ids=["one-block", "blocks", "heads-apart"])
def test_dropout_keeps_and_scales_single_weights(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """With the drawn bytes known, values and gradients are those of softmax weights times keep / (1 - p)."""
    monkeypatch.setattr(attention, "BLOCK", block)
    blocks_of.cache_clear()
    p = 0.3
    inputs = tensors(HEADS)
    packing = Packing.of(torch.tensor(LENGTHS), torch.device("cpu"))
    torch.manual_seed(3)
    blocks = blocks_of(packing.runs, HEADS)
    values, threshold = drop_bytes(blocks[-1].offset + blocks[-1].size, p)
    starts = [sum(LENGTHS[:i]) for i in range(len(LENGTHS))]
    factors = [torch.full((HEADS, n, n), torch.nan, dtype=torch.float64) for n in LENGTHS]
    for b in blocks:
        keep = (b.weights(values) >= threshold).double().view(b.count, b.high - b.low, b.length, b.length) / (1 - p)
        for i in range(b.count):
            factors[starts.index(b.start + i * b.length)][b.low : b.high] = keep[i]
    expected = gradients(naive(*inputs, causal=False, window=None, scale=0.3, factors=factors), inputs)
    torch.manual_seed(3)
    out, _ = packed_attention(SimpleNamespace(), *inputs, None, packing=packing, scaling=0.3, dropout=p)
    for found, wanted in zip(gradients(out, inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    blocks_of.cache_clear()


def test_blocks_cover_every_head_of_every_text_once() -> None:
    packing = Packing.of(torch.tensor([900, 900, 300, 8, 8, 8]), torch.device("cpu"))
    blocks = blocks_of(packing.runs, 12)
    seen = set()
    for b in blocks:
        assert b.size <= max(attention.BLOCK, b.length**2)
        for text in range(b.count):
            for head in range(b.low, b.high):
                key = (b.start + text * b.length, head)
                assert key not in seen
                seen.add(key)
    assert len(seen) == 6 * 12
    assert blocks[-1].offset + blocks[-1].size == sum(12 * n * n for n in (900, 900, 300, 8, 8, 8))


def test_autocast_uses_its_type() -> None:
    inputs = tensors(HEADS, torch.float32)
    packing = Packing.of(torch.tensor(LENGTHS), torch.device("cpu"))
    exact, _ = packed_attention(SimpleNamespace(), *inputs, None, packing=packing)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = packed_attention(SimpleNamespace(), inputs[0], inputs[1], inputs[2].bfloat16(), None, packing=packing)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), exact, rtol=0, atol=0.05)
    grads = torch.autograd.grad(mixed.float().sum(), inputs)
    assert all(g.dtype == torch.float32 and float(g.abs().max()) > 0 for g in grads[2:])


def test_what_it_does_not_know_is_refused() -> None:
    inputs = tensors(HEADS)
    packing = Packing.of(torch.tensor(LENGTHS), torch.device("cpu"))
    with pytest.raises(NotImplementedError, match="softcap"):
        packed_attention(SimpleNamespace(), *inputs, None, packing=packing, softcap=50.0)
    with pytest.raises(NotImplementedError, match="mask"):
        packed_attention(SimpleNamespace(), *inputs, torch.zeros(1), packing=packing)
