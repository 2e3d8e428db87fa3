"""The sparse products of the backward against loops, and the winners against all logits."""

from __future__ import annotations

import torch

from stpipe.ops.splade_pairs import Pairs, winners
from stpipe.ops.splade_tiles import Products

SINGLE = Products(torch.float32, torch.float32)


def test_pairs_are_those_above_zero() -> None:
    value = torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 1.0]])
    pairs = Pairs.of(value, torch.full((3, 3), 4.0), "relu")
    assert pairs.text.tolist() == [0, 2, 2] and pairs.word.tolist() == [1, 0, 2]
    torch.testing.assert_close(pairs.grad, 4 / (1 + torch.expm1(torch.tensor([0.5, 2.0, 1.0]))))


def test_product_with_a_table() -> None:
    """Targets in any order, some several times, some never, the last one among them."""
    target = torch.randint(0, 9, (40,))
    target[target == 8] = 3
    source, grad, table = torch.randint(0, 5, (40,)), torch.randn(40), torch.randn(5, 7)
    expected = torch.zeros(9, 7, dtype=torch.float64)
    for i, j, g in zip(target.tolist(), source.tolist(), grad.tolist(), strict=True):
        expected[i] += g * table[j].double()
    pairs = Pairs(target, source, grad)
    found = pairs.rows_by(target, source, table, 9)
    assert expected.any() and not found[8].any()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    half = pairs.rows_by(target, source, table.bfloat16(), 9)
    torch.testing.assert_close(half, pairs.rows_by(target, source, table.bfloat16().float(), 9), rtol=0, atol=0)


def test_sums_by_word() -> None:
    word, grad = torch.randint(0, 6, (30,)), torch.randn(30)
    expected = torch.zeros(8, dtype=torch.float64)
    for v, g in zip(word.tolist(), grad.tolist(), strict=True):
        expected[v] += g
    torch.testing.assert_close(Pairs(word, word, grad).sums_by_word(8).double(), expected, rtol=1e-5, atol=1e-5)
    none = Pairs(word[:0], word[:0], grad[:0])
    assert torch.equal(none.sums_by_word(8), torch.zeros(8))


def test_winners_of_some_pairs() -> None:
    lengths = torch.tensor([4, 0, 1, 700])  # the last one needs several tiles of words
    hidden, weight = torch.randn(705, 12), torch.randn(2000, 12)
    value = (torch.rand(4, 2000) < 0.8).float()
    value[1] = 0
    value[2] = 0  # a text without active words before another one
    value[3] = 1
    pairs = Pairs.of(value, torch.ones(4, 2000), "relu")
    found = winners(hidden, weight, lengths, pairs, SINGLE)
    logits = hidden @ weight.t()
    for text, low, high in ((0, 0, 4), (3, 5, 705)):
        here = pairs.text == text
        assert torch.equal(found[here], logits[low:high].argmax(0)[pairs.word[here]] + low) and int(here.sum()) > 1000
