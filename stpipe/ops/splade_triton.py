"""Largest logit of each text for each word, and the token that has it, in one triton kernel.

One program makes one tile of words for one text: it walks over the text's tokens, multiplies them with the words and keeps the
running maximum and its token in registers, so logits never reach memory. Every result has one writer and a fixed order of
sums: no atomics, the same bits each time. Only imported where it is used; the package works without triton.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

WORDS = 128  # words of a program
TOKENS = 64  # tokens of a step; fewer when all texts are shorter
BYTES = 128  # of a row multiplied at once: the factors of two steps fit the shared memory of any GPU from sm_75 on


@triton.jit
def max_kernel(  # type: ignore[no-untyped-def]  # triton reads the annotations as its own
    hidden,
    weight,
    starts,
    largest,
    winner,
    num_words,
    width,
    TOKENS: tl.constexpr,
    WORDS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """hidden (T, D), weight (V, D), starts (N + 1,) int64 -> largest (N, V) float32, winner (N, V) int32; all contiguous.

    Texts without tokens get -inf and -1.
    """
    text = tl.program_id(0).to(tl.int64)
    words = tl.program_id(1).to(tl.int64) * WORDS + tl.arange(0, WORDS)
    real_words = words < num_words
    first = tl.load(starts + text)
    stop = tl.load(starts + text + 1)
    best = tl.full((WORDS,), float("-inf"), tl.float32)
    place = tl.full((WORDS,), -1, tl.int32)
    for low in range(first, stop, TOKENS):
        tokens = low + tl.arange(0, TOKENS)
        real_tokens = tokens < stop
        logits = tl.zeros((TOKENS, WORDS), tl.float32)
        for k in range(0, width, WIDTH):
            part = k + tl.arange(0, WIDTH)
            real = part < width
            h = tl.load(hidden + tokens[:, None] * width + part[None, :], mask=real_tokens[:, None] & real[None, :], other=0.0)
            w = tl.load(weight + words[None, :] * width + part[:, None], mask=real_words[None, :] & real[:, None], other=0.0)
            logits = tl.dot(h, w, logits, input_precision=PRECISION)
        logits = tl.where(real_tokens[:, None], logits, float("-inf"))
        # Of equal logits the first token wins: the left one within a step, the earlier step between steps.
        top, at = tl.max(logits, axis=0, return_indices=True, return_indices_tie_break_left=True)
        better = top > best
        # The maximum above passes over NaN; torch's does not, and a NaN that nobody sees trains on. None is better than NaN.
        broken = tl.sum((logits != logits).to(tl.int32), axis=0) > 0
        best = tl.where(broken, float("nan"), tl.where(better, top, best))
        place = tl.where(better, (low + at).to(tl.int32), place)
    tl.store(largest + text * num_words + words, best, mask=real_words)
    tl.store(winner + text * num_words + words, place, mask=real_words)


def max_with_winners(hidden: Tensor, weight: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(N, V) float32 largest logits (-inf for texts without tokens) and (N, V) int32 rows of hidden that have them.

    hidden (T, D) and weight (V, D) of one type (float32, float16, bfloat16), lengths (N,) int64 on the CPU.
    """
    num_texts, num_words = lengths.numel(), weight.shape[0]
    largest = torch.empty(num_texts, num_words, device=hidden.device)
    winner = torch.empty(num_texts, num_words, device=hidden.device, dtype=torch.int32)
    if not largest.numel():
        return largest, winner
    starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(hidden.device, non_blocking=True)
    tokens = min(TOKENS, max(16, triton.next_power_of_2(int(lengths.max()))))
    grid = (num_texts, triton.cdiv(num_words, WORDS))
    max_kernel[grid](
        hidden.contiguous(),
        weight.contiguous(),
        starts,
        largest,
        winner,
        num_words,
        hidden.shape[1],
        TOKENS=tokens,
        WORDS=WORDS,
        WIDTH=BYTES // hidden.element_size(),
        PRECISION=precision_of(hidden),
    )
    return largest, winner


def precision_of(hidden: Tensor) -> Any:
    """float32 products are exact unless torch was told that tf32 will do."""
    return "tf32" if hidden.is_cuda and torch.backends.cuda.matmul.allow_tf32 else "ieee"
