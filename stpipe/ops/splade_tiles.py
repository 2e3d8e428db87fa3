"""Logits of a vocabulary made tile by tile and reduced over the tokens of each text while they are in the cache.

Shapes: T tokens of N texts laid end to end, L tokens of one text, V words, D width. A tile is the logits of one block (some
neighbouring texts) for some words; it is the only thing of size tokens x words that exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Activation = str  # "relu": log1p(relu(x)); "log1p_relu": log1p(log1p(relu(x)))

TOKENS = 512  # tokens of a block; longer texts are a block of their own
#: logits of a tile. CPU: it fits beside its factors in a shared cache, and larger products are no faster (measured from 32k to 2M).
TILE = {"cpu": 1 << 19}
TILE_ELSEWHERE = 1 << 25  # on a GPU the launches would dominate


@dataclass(frozen=True, slots=True)
class Products:
    """In which types logits are made: factors are rounded to `rounded`, multiplied and summed in `multiplied`.

    A product of two half-precision numbers is exact in float32, so a CPU without half-precision units multiplies the rounded
    factors in float32: the same products, many times faster than emulation, and the sums are not rounded either.
    """

    rounded: torch.dtype
    multiplied: torch.dtype

    @staticmethod
    def of(hidden: Tensor, weight: Tensor) -> Products:
        """Autocast's type where it is on, otherwise the wider one of the two; float64 is never narrowed."""
        rounded = torch.promote_types(hidden.dtype, weight.dtype)
        device = hidden.device.type
        if rounded != torch.float64 and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            rounded = torch.get_autocast_dtype(device)
        return Products(rounded, rounded if has_products(rounded, device) else torch.float32)

    @property
    def result(self) -> torch.dtype:
        """Type of everything after the products: at least float32."""
        return torch.promote_types(self.rounded, torch.float32)

    def factor(self, x: Tensor) -> Tensor:
        """x in the type of the products; x itself when it has that type."""
        return x.to(self.rounded).to(self.multiplied)


def has_products(dtype: torch.dtype, device: str) -> bool:
    """Whether the device multiplies matrices of this type itself, instead of emulating it."""
    if device != "cpu" or dtype in (torch.float32, torch.float64):
        return True
    return dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass(frozen=True, slots=True)
class Run:
    """`count` neighbouring texts of `length` tokens each, from text `text` on; `start` is their first token's row in the block."""

    text: int
    count: int
    length: int
    start: int

    @property
    def texts(self) -> slice:
        return slice(self.text, self.text + self.count)

    def rows(self, tile: Tensor) -> Tensor:
        """View of the run's part of a tile (tokens, words) as (count, length, words)."""
        return tile[self.start : self.start + self.count * self.length].unflatten(0, (self.count, self.length))


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring texts whose tokens [start, stop) are multiplied at once."""

    start: int
    stop: int
    runs: tuple[Run, ...]

    @property
    def tokens(self) -> slice:
        return slice(self.start, self.stop)


def blocks_of(lengths: Tensor) -> list[Block]:
    """Cut texts (lengths (N,) int64 on the CPU) into blocks of about TOKENS tokens; texts without tokens are in none."""
    blocks: list[Block] = []
    runs: list[Run] = []
    start = stop = 0  # tokens of the block that is being filled
    for text, length in enumerate(lengths.tolist()):
        if not length:
            continue
        if runs and stop - start + length > TOKENS:
            blocks.append(Block(start, stop, tuple(runs)))
            runs, start = [], stop
        last = runs[-1] if runs else None
        if last is not None and last.length == length and last.text + last.count == text:
            runs[-1] = Run(last.text, last.count + 1, length, last.start)
        else:
            runs.append(Run(text, 1, length, stop - start))
        stop += length
    return [*blocks, Block(start, stop, tuple(runs))] if runs else blocks


def word_slices(num_words: int, num_tokens: int, device: str) -> Iterator[slice]:
    """Slices of the vocabulary such that num_tokens tokens make about one tile each."""
    step = max(64, TILE.get(device, TILE_ELSEWHERE) // max(1, num_tokens))
    for low in range(0, num_words, step):
        yield slice(low, min(low + step, num_words))


def tiles(hidden: Tensor, weight: Tensor, lengths: Tensor, products: Products) -> Iterator[tuple[slice, Tensor, Block, Tensor]]:
    """All tiles: (slice of words, their weights as factors (words, D), block of texts, logits (tokens, words)).

    hidden (T, D) holds factors already; weight (V, D) is made factors slice by slice, so no second vocabulary is held. The
    logits lie in memory that the next tile uses again.
    """
    blocks = blocks_of(lengths)
    longest = max((block.stop - block.start for block in blocks), default=0)
    memory = hidden.new_empty(0)
    for words in word_slices(weight.shape[0], longest, hidden.device.type):
        factor = products.factor(weight[words])
        if not memory.numel():
            memory = hidden.new_empty(longest * factor.shape[0])
        for block in blocks:
            rows = hidden[block.tokens]
            tile = memory[: rows.shape[0] * factor.shape[0]].view(rows.shape[0], factor.shape[0])
            yield words, factor, block, torch.mm(rows, factor.t(), out=tile)


def max_logits(hidden: Tensor, weight: Tensor, lengths: Tensor, products: Products) -> Tensor:
    """Largest logit of each text for each word, without bias: (N, V) in products.result; -inf for texts without tokens."""
    out = torch.full((lengths.numel(), weight.shape[0]), -torch.inf, dtype=products.result, device=hidden.device)
    for words, _, block, tile in tiles(hidden, weight, lengths, products):
        for run in block.runs:
            out[run.texts, words] = run.rows(tile).amax(1)
    return out


def sum_activations(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, lengths: Tensor, activation: Activation, products: Products
) -> Tensor:
    """Sum over the tokens of each text of act(logit + bias): (N, V) in products.result; 0 for texts without tokens."""
    out = torch.zeros(lengths.numel(), weight.shape[0], dtype=products.result, device=hidden.device)
    for words, _, block, tile in tiles(hidden, weight, lengths, products):
        values = activate_(with_bias_(tile.to(out.dtype), bias, words), activation)
        for run in block.runs:
            out[run.texts, words] = run.rows(values).sum(1)
    return out


def sum_gradients(
    grad: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, lengths: Tensor, activation: Activation, products: Products
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients (T, D), (V, D), (V,) of sum_activations from grad (N, V); the logits are made again, tile by tile."""
    rows = hidden.to(grad.dtype)
    grad_hidden = torch.zeros_like(rows)
    grad_weight = torch.zeros(weight.shape, dtype=grad.dtype, device=grad.device)
    grad_bias = grad.new_zeros(weight.shape[0])
    for words, factor, block, tile in tiles(hidden, weight, lengths, products):
        delta = slope_(with_bias_(tile.to(grad.dtype), bias, words), activation)
        for run in block.runs:
            run.rows(delta).mul_(grad[run.texts, None, words])
        grad_hidden[block.tokens].addmm_(delta, factor.to(grad.dtype))
        grad_weight[words].addmm_(delta.t(), rows[block.tokens])
        grad_bias[words] += delta.sum(0)
    return grad_hidden, grad_weight, grad_bias


def with_bias_(x: Tensor, bias: Tensor | None, words: slice) -> Tensor:
    """x (..., words) plus the bias of these words, in place."""
    return x if bias is None else x.add_(bias[words].to(x.dtype))


def activate_(x: Tensor, activation: Activation) -> Tensor:
    """act(x) in place."""
    x.relu_().log1p_()
    return x.log1p_() if activation == "log1p_relu" else x


def slope_(x: Tensor, activation: Activation) -> Tensor:
    """act'(x) in place, 0 where x <= 0: 1 / (1 + x), for "log1p_relu" also divided by 1 + log1p(x)."""
    active = x > 0
    x.relu_()
    if activation == "log1p_relu":
        x = torch.addcmul(x + 1, x + 1, torch.log1p(x), out=x)
    else:
        x.add_(1)
    return x.reciprocal_().mul_(active)


def slope_at_value(value: Tensor, activation: Activation) -> Tensor:
    """act'(x) from y = act(x) > 0: exp(-y), for "log1p_relu" exp(-y - expm1(y)), because 1 + x = exp(expm1(y))."""
    return torch.exp(-value - torch.expm1(value)) if activation == "log1p_relu" else torch.exp(-value)
