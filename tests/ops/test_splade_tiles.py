"""How texts and words are cut into tiles, in which types logits are made, and the derivative of the activation."""

from __future__ import annotations

import itertools

import pytest
import torch

from stpipe.ops.splade_tiles import TOKENS, Products, activate_, blocks_of, has_products, max_logits, slope_, slope_at_value, word_slices

LENGTHS = [[5], [0, 5, 0, 0, 5], [5, 5, 5, 4, 5], [TOKENS, 1], [TOKENS - 1, 1, 1], [3 * TOKENS, 2, 2], [7] * 300, [0, 0], []]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_blocks_hold_every_token_once(lengths: list[int]) -> None:
    blocks = blocks_of(torch.tensor(lengths, dtype=torch.int64))
    starts = list(itertools.accumulate(lengths, initial=0))
    seen: dict[int, list[int]] = {}
    end = 0
    for block in blocks:
        assert block.start == end and block.runs
        assert block.stop - block.start <= TOKENS or (len(block.runs) == 1 and block.runs[0].count == 1)
        end = block.stop
        rows = torch.arange(block.start, block.stop)[:, None]
        for run in block.runs:
            for text, tokens in zip(range(run.text, run.text + run.count), run.rows(rows), strict=True):
                seen[text] = tokens.flatten().tolist()
    assert end == sum(lengths)
    assert seen == {n: list(range(starts[n], starts[n + 1])) for n in range(len(lengths)) if lengths[n]}


def test_neighbours_of_equal_length_are_one_run() -> None:
    (block,) = blocks_of(torch.tensor([4, 4, 4, 2, 0, 2, 4]))
    assert [(run.text, run.count, run.length, run.start) for run in block.runs] == [
        (0, 3, 4, 0),
        (3, 1, 2, 12),
        (5, 1, 2, 14),
        (6, 1, 4, 16),
    ]


@pytest.mark.parametrize(("words", "tokens"), [(0, 5), (1, 5), (64, 10**6), (65, 10**6), (250_000, 512), (30_522, 0)])
def test_slices_cover_the_vocabulary(words: int, tokens: int) -> None:
    slices = list(word_slices(words, tokens, "cpu"))
    assert [i for s in slices for i in range(words)[s]] == list(range(words))
    assert all((s.stop - s.start) * tokens <= max(1 << 19, 64 * tokens) for s in slices)


def test_types_of_products() -> None:
    half, single, double = torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1), torch.zeros(1, dtype=torch.float64)
    multiplied = torch.bfloat16 if has_products(torch.bfloat16, "cpu") else torch.float32
    assert Products.of(single, single) == Products(torch.float32, torch.float32)
    assert Products.of(half, single) == Products(torch.float32, torch.float32)
    assert Products.of(half, half) == Products(torch.bfloat16, multiplied)
    with torch.autocast("cpu", torch.bfloat16):
        assert Products.of(single, single) == Products(torch.bfloat16, multiplied)
        assert Products.of(double, single) == Products(torch.float64, torch.float64)
    assert Products.of(single, double).result == torch.float64
    assert Products.of(half, half).result == torch.float32


def test_half_precision_products_of_the_hardware() -> None:
    """The path of CPUs with bf16 units (others emulate it): logits rounded to bf16, everything after in float32."""
    lengths = torch.tensor([4, 0, 30])
    hidden, weight = torch.randn(34, 16), torch.randn(100, 16)
    out = max_logits(hidden.bfloat16(), weight, lengths, Products(torch.bfloat16, torch.bfloat16))
    expected = [(part @ weight.bfloat16().double().t()).amax(0) for part in hidden.bfloat16().double().split([4, 30])]
    assert out.dtype == torch.float32 and bool((out[1] == -torch.inf).all())
    torch.testing.assert_close(out[[0, 2]].double(), torch.stack(expected), rtol=2**-8, atol=1e-6)
    assert torch.equal(out, out.bfloat16().float())


@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes(activation: str, dtype: torch.dtype) -> None:
    x = torch.cat([torch.logspace(-6, 4, 200), -torch.logspace(-6, 4, 200), torch.tensor([0.0, -1.0])]).double().requires_grad_()
    value = x.relu().log1p()
    value = value.log1p() if activation == "log1p_relu" else value
    (expected,) = torch.autograd.grad(value.sum(), x)
    assert int((expected > 0).sum()) == 200
    found = slope_(x.detach().clone().to(dtype), activation)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=0)
    y = activate_(x.detach().clone().to(dtype), activation)
    torch.testing.assert_close(y.double(), value.detach(), rtol=tolerance, atol=0)
    positive = y > 0
    # y carries the rounding of float32: exp(-y) is off by |y| times that at most
    torch.testing.assert_close(slope_at_value(y[positive], activation).double(), expected[x > 0], rtol=30 * tolerance, atol=0)
