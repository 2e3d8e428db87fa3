"""The SPLADE head: token states -> weights of words, without the logits of all tokens ever being held.

SPLADE (arXiv 2107.05720, equation 1; max pooling: arXiv 2109.10086, equation 4) gives text n the weight
w_nv = pool_t log1p(relu(h_t . e_v + b_v)) for word v. In the usual form h_t . e_v is a tensor texts x tokens x words, held three
times over for the gradient. Here the logits are made tile by tile and reduced at once (ops/splade_tiles.py, on a GPU
ops/splade_triton.py). For max pooling that goes further, because a maximum commutes with everything monotone after it: bias,
ReLU and log1p act on the (N, V) result only, and the gradient of a pair (text, word) goes to one token alone, and only when the
weight is above zero. The backward is therefore two sparse products over the active pairs (ops/splade_pairs.py).
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from stpipe.ops.convert import full_precision
from stpipe.ops.splade_pairs import Pairs, winners
from stpipe.ops.splade_tiles import Activation, Products, activate_, max_logits, sum_activations, sum_gradients, with_bias_

Kernel = Literal["auto", "torch", "triton"]


@torch.compiler.disable
def splade_head(
    hidden: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None,
    lengths: Tensor,
    keep: Tensor | None = None,
    pooling: Literal["max", "sum"] = "max",
    activation: Literal["relu", "log1p_relu"] = "relu",
    kernel: Kernel = "auto",
) -> Tensor:
    """w_nv = pool over the kept tokens t of text n of act(hidden_t . weight_v + bias_v): (N, V) >= 0.

    Differentiable once, in hidden, weight and bias; works under autocast and activation checkpointing. Of equal logits the first
    token wins, as torch.max has it.

    Args:
        hidden: (T, D) states of the tokens of N texts laid end to end, after the transform of the MLM head.
        weight: (V, D) output embeddings of the words, usually tied to the input embeddings.
        bias: (V,) or None.
        lengths: (N,) int64 on the CPU, tokens of each text. Texts without (kept) tokens get zeros.
        keep: (T,) bool, tokens that take part; None: all.
        pooling: "max" (SPLADE v2 and later) or "sum" (the first SPLADE).
        activation: "relu": act(x) = log1p(relu(x)); "log1p_relu": log1p(log1p(relu(x))) (arXiv 2504.14839). The names are those of
            sentence-transformers, where the ReLU or its log1p comes before the log1p that all have.
        kernel: "auto": triton for max pooling on CUDA when it is installed, torch otherwise; or which of them.

    Returns:
        float32, or float64 when hidden or weight is. In half precision only the factors of the products are rounded (and, where
        the hardware's half-precision product returns half precision, the logits); everything after is float32.

    Raises:
        ValueError: shapes do not fit, or an option is unknown.
    """
    check(hidden, weight, bias, lengths, keep, pooling, activation, kernel)
    if keep is not None:
        hidden, lengths = kept_tokens(hidden, lengths, keep)
    products = Products.of(hidden, weight)
    if pooling == "sum":
        out: Tensor = SumHead.apply(hidden, weight, bias, lengths, activation, products)
    else:
        out = MaxHead.apply(hidden, weight, bias, lengths, activation, products, uses_triton(hidden, products, kernel))
    return out


def check(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lengths: Tensor,
    keep: Tensor | None,
    pooling: str,
    activation: str,
    kernel: str,
) -> None:
    """Refuse what would index out of range or pool over other tokens than the caller means."""
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"splade_head: hidden is {tuple(hidden.shape)} and weight {tuple(weight.shape)}; expected (T, D) tokens laid end to end "
            f"and (V, D) words of the same width D. Flatten padded states to their real tokens first."
        )
    if lengths.device.type != "cpu" or lengths.dim() != 1 or int(lengths.sum()) != hidden.shape[0]:
        raise ValueError(
            f"splade_head: lengths is {tuple(lengths.shape)} on {lengths.device} and sums to {int(lengths.sum())}; expected the number of "
            f"tokens of each text on the CPU, together {hidden.shape[0]}, as hidden has rows"
        )
    for name, value, size in (("bias", bias, weight.shape[0]), ("keep", keep, hidden.shape[0])):
        if value is not None and value.shape != (size,):
            raise ValueError(f"splade_head: {name} is {tuple(value.shape)}, expected ({size},)")
    options = (("pooling", pooling, ("max", "sum")), ("activation", activation, ("relu", "log1p_relu")))
    for name, option, allowed in (*options, ("kernel", kernel, ("auto", "torch", "triton"))):
        if option not in allowed:
            raise ValueError(f"splade_head: {name} is {option!r}, expected one of {', '.join(map(repr, allowed))}")


def kept_tokens(hidden: Tensor, lengths: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Only the tokens that take part, with the lengths (N,) of what is left: the others then cost nothing."""
    keep = keep.cpu()
    ends = torch.cat([lengths.new_zeros(1), keep.cumsum(0)])[torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])]
    return hidden.index_select(0, keep.nonzero().squeeze(1).to(hidden.device)), ends.diff()


def uses_triton(hidden: Tensor, products: Products, kernel: Kernel) -> bool:
    """Whether the maxima come from the triton kernel; it multiplies in float32, float16 or bfloat16."""
    if kernel == "auto":
        return hidden.device.type == "cuda" and products.rounded != torch.float64 and find_spec("triton") is not None
    if kernel == "triton" and products.rounded == torch.float64:
        raise ValueError("splade_head: the triton kernel does not multiply in float64; kernel='torch' does")
    return kernel == "triton"


class MaxHead(torch.autograd.Function):
    """Max pooling. Keeps for the backward its inputs and its result, and from the triton kernel the winning tokens (int32)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lengths: Tensor,
        activation: Activation,
        products: Products,
        triton: bool,
    ) -> Tensor:
        won: Tensor | None = None
        with full_precision(hidden):
            rows = products.factor(hidden)
            if triton:
                from stpipe.ops.splade_triton import max_with_winners

                logits, won = max_with_winners(rows, products.factor(weight), lengths)
            else:
                logits = max_logits(rows, weight, lengths, products)
            out = activate_(with_bias_(logits, bias, slice(None)), activation)
        ctx.save_for_backward(hidden, weight, out, won)
        ctx.lengths, ctx.activation, ctx.products = lengths, activation, products
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, out, won = ctx.saved_tensors
        with full_precision(hidden):
            rows = ctx.products.factor(hidden)
            pairs = Pairs.of(out, grad, ctx.activation)
            tokens = winners(rows, weight, ctx.lengths, pairs, ctx.products) if won is None else won[pairs.text, pairs.word].long()
            wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
            grad_hidden = pairs.rows_by(tokens, pairs.word, weight, hidden.shape[0]).to(hidden.dtype) if wants_hidden else None
            grad_weight = pairs.rows_by(pairs.word, tokens, hidden, weight.shape[0]).to(weight.dtype) if wants_weight else None
            grad_bias = pairs.sums_by_word(weight.shape[0]) if wants_bias else None
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


class SumHead(torch.autograd.Function):
    """Sum pooling. Every token takes part, so the backward makes the logits again; it keeps its inputs only."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, lengths: Tensor, activation: Activation, products: Products
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias)
        ctx.lengths, ctx.activation, ctx.products = lengths, activation, products
        with full_precision(hidden):
            return sum_activations(products.factor(hidden), weight, bias, lengths, activation, products)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        with full_precision(hidden):
            rows = ctx.products.factor(hidden)
            grads = sum_gradients(grad, rows, weight, bias, ctx.lengths, ctx.activation, ctx.products)
        inputs = (hidden, weight, bias)
        wanted = zip(grads, inputs, ctx.needs_input_grad, strict=False)
        return *(g.to(x.dtype) if needed else None for g, x, needed in wanted), None, None, None
