"""The active pairs (text, word) of a max-pooled SPLADE head: who won them, and the two sparse products of the backward.

A pair is active when its weight is above zero; only these have a gradient, each for one token. Of 16 documents and 30,522
words 3,000 (trained) to 19,000 (start) of 488,000 pairs are active.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from stpipe.ops.splade_tiles import Activation, Products, slope_at_value, word_slices


@dataclass(frozen=True, slots=True)
class Pairs:
    """text (P,) int64 ascending, word (P,) int64 ascending within a text, grad (P,): derivative of the loss by the pair's logit."""

    text: Tensor
    word: Tensor
    grad: Tensor

    @staticmethod
    def of(value: Tensor, grad: Tensor, activation: Activation) -> Pairs:
        """From the weights (N, V) and the gradient that came for them (N, V)."""
        text, word = (value > 0).nonzero().unbind(1)
        return Pairs(text, word, grad[text, word] * slope_at_value(value[text, word], activation))

    def rows_by(self, target: Tensor, source: Tensor, table: Tensor, count: int) -> Tensor:
        """out[i] = sum of grad_p * table[source_p] over the pairs p with target_p = i: (count, D), deterministic on every device.

        The product of a sparse matrix (count, rows of table) with the table. embedding_bag was the fastest way to it on a CPU:
        with 3,000 / 19,000 / 60,000 pairs 0.6 / 3 / 7 ms for the tokens, where CSR times dense took 9 / 5 / 12, a scatter of
        rows 11 / 42 / 133, and dense products a text 9 / 47 / 153 (D = 384, T = 4,096, one core).
        """
        if not target.numel():
            return torch.zeros(count, table.shape[1], dtype=self.grad.dtype, device=self.grad.device)
        ordered, order = target.sort(stable=True)
        first = torch.searchsorted(ordered, torch.arange(count, device=target.device))
        return embedding_bag(source[order], table.to(self.grad.dtype), first, mode="sum", per_sample_weights=self.grad[order])

    def sums_by_word(self, num_words: int) -> Tensor:
        """(V,) sum of the gradients of each word's pairs; by the product above, so on GPUs in a fixed order, too."""
        ones = self.grad.new_ones(1, 1)
        return self.rows_by(self.word, torch.zeros_like(self.word), ones, num_words).squeeze(1)


def winners(hidden: Tensor, weight: Tensor, lengths: Tensor, pairs: Pairs, products: Products) -> Tensor:
    """(P,) int64: which token (row of hidden) has the largest logit of each pair; the first of equal ones.

    The logits of active pairs are made again here: 4 % of all logits where 4 % of the pairs are active. To note the winner in
    the forward would cost 14 to 30 % of it, because a maximum with its place is not vectorised on CPUs.
    """
    out = torch.empty_like(pairs.word)
    first = 0
    counts = torch.bincount(pairs.text, minlength=lengths.numel()).tolist()
    starts = (lengths.cumsum(0) - lengths).tolist()
    for count, start, length in zip(counts, starts, lengths.tolist(), strict=True):
        rows = hidden[start : start + length]
        for part in word_slices(count, length, hidden.device.type):
            here = slice(first + part.start, first + part.stop)
            logits = rows @ products.factor(weight.index_select(0, pairs.word[here])).t()
            out[here] = logits.max(0).indices + start
        first += count
    return out
