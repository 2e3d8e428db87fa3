"""Attention over packed texts: one row of tokens, each text attends to itself only.

transformers models reach this through its attention registry under the name `stpipe_packed`. The row has restarting
position ids; which tokens belong together is said by the keyword `packing`, which every model that follows the
registry's calling convention hands through to the function.

Shapes: H heads, G key and value heads (G divides H), T tokens, d width of a head, N texts, L tokens of a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from stpipe.ops.dropout import drop_bytes
from stpipe.ops.packing import Packing, Run
from stpipe.ops.picked_attention import picked_attention

NAME = "stpipe_packed"
BLOCK = 1 << 19  # attention weights computed at once on the CPU: they and two helpers of their size stay in the cache


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function in the registry: query (1, H, T, d), key and value (1, G, T, d) -> ((1, T, H, d), None).

    A sliding window of w lets a token see the w - 1 tokens before it and, unless causal, after it.
    """
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if attention_mask is not None or unknown:
        raise NotImplementedError(f"packed attention with {', '.join(unknown) or 'a mask'}")
    if packing.windows is not None:
        packing.windows.append(sliding_window)
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    window = None if sliding_window is None or sliding_window >= packing.longest else sliding_window
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # squeeze, because the backward of an index allocates and fills a whole tensor and that of squeeze is free
    query, key, value = (x.squeeze(0) for x in same_type(query, key, value))
    if packing.whole is not None:
        if causal or window is not None:
            raise NotImplementedError("packed attention of picked tokens that do not see the whole text")
        return picked_attention(module, query, packing, dropout, scale), None
    if query.device.type == "cpu":
        out = cpu_attention(query, key, value, packing, dropout, scale, causal, window)
    elif query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16) and not dropout:
        out = varlen_attention(query, key, value, packing, scale, causal, window)
    else:
        out = padded_attention(query, key, value, packing, dropout, scale, causal, window)
    return out[None], None


def same_type(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Under autocast its type, as torch does for attention; rotary positions leave query and key in another one."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return tuple(t.to(torch.get_autocast_dtype(device)) for t in tensors)


def position_bias(length: int, causal: bool, window: int | None, like: Tensor) -> Tensor | None:
    """(L, L) zeros and -inf; its upper left corner serves shorter texts. None when every token sees every other."""
    if not causal and window is None:
        return None
    place = torch.arange(length, device=like.device)
    ahead = place[None, :] - place[:, None]
    hidden = ahead > 0 if causal else ahead.abs() >= length
    if window is not None:
        hidden = hidden | (ahead.abs() >= window)
    return torch.zeros(length, length, dtype=like.dtype, device=like.device).masked_fill(hidden, float("-inf"))


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, packing: Packing, scale: float, causal: bool, window: int | None) -> Tensor:
    """The GPU kernel for texts of different length: (H, T, d), (G, T, d) -> (T, H, d). It knows no dropout."""
    from torch.nn.attention.varlen import varlen_attn

    side = -1 if window is None else window - 1
    query, key, value = (x.transpose(0, 1).contiguous() for x in (q, k, v))
    out = varlen_attn(
        query,
        key,
        value,
        packing.starts,
        packing.starts,
        packing.longest,
        packing.longest,
        scale=scale,
        window_size=(side, 0 if causal else side),
        enable_gqa=q.shape[0] != k.shape[0],
    )
    assert isinstance(out, Tensor)
    return out


def padded_attention(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, dropout: float, scale: float, causal: bool, window: int | None
) -> Tensor:
    """Only the attention itself on padded texts, for devices and types without a kernel: (H, T, d), (G, T, d) -> (T, H, d)."""
    lengths = (packing.starts[1:] - packing.starts[:-1]).long()
    real = torch.arange(packing.longest, device=q.device)[None, :] < lengths[:, None]  # (N, L)
    mask = real[:, None, None, :]
    bias = position_bias(packing.longest, causal, window, q)
    if bias is not None:
        # A padded token may see nothing at all, which is NaN in the softmax: let it see itself.
        mask = (mask & (bias == 0)) | torch.eye(packing.longest, dtype=torch.bool, device=q.device)

    def pad(x: Tensor) -> Tensor:
        rows = x.new_zeros(real.numel(), x.shape[0], x.shape[2])
        return rows.index_copy(0, packing.places, x.transpose(0, 1)).unflatten(0, real.shape).transpose(1, 2)

    out = scaled_dot_product_attention(
        pad(q), pad(k), pad(v), attn_mask=mask, dropout_p=dropout, scale=scale, enable_gqa=q.shape[0] != k.shape[0]
    )
    return out.transpose(1, 2).flatten(0, 1).index_select(0, packing.places)


@torch.compiler.disable
def cpu_attention(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, dropout: float, scale: float, causal: bool, window: int | None
) -> Tensor:
    """(H, T, d), (G, T, d) -> (T, H, d) by BlockAttention, computed in float32 for half precision.

    Half-precision matrix products on a CPU compile a kernel for each new shape (1 ms each, measured), and nearly every
    text brings new shapes; float32 ones do not.
    """
    dtype = q.dtype
    if dtype in (torch.float16, torch.bfloat16):
        q, k, v = q.float(), k.float(), v.float()
    if q.shape[0] != k.shape[0]:
        k, v = (x.repeat_interleave(q.shape[0] // x.shape[0], dim=0) for x in (k, v))
    bias = position_bias(packing.longest, causal, window, q)
    with torch.autocast("cpu", enabled=False):
        if torch.is_inference_mode_enabled() and not dropout:
            return inference_attention(q, k, v, packing.runs, scale, bias).to(dtype)
        out: Tensor = BlockAttention.apply(q, k, v, packing.runs, dropout, scale, bias)
    return out.to(dtype)


def inference_attention(q: Tensor, k: Tensor, v: Tensor, runs: tuple[Run, ...], scale: float, bias: Tensor | None) -> Tensor:
    """The same by torch's kernel, which never holds the weights: faster where neither a backward nor dropout needs them (measured: a
    tenth for texts of 32 tokens, a third for 512)."""
    out = q.new_empty(q.shape[1], q.shape[0], v.shape[2])
    for run in runs:
        part = slice(run.start, run.stop)
        query, key, value = (x[:, part].unflatten(1, (run.count, run.length)).transpose(0, 1) for x in (q, k, v))
        mask = None if bias is None else bias[: run.length, : run.length]
        made = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        out[part] = made.transpose(1, 2).flatten(0, 1)
    return out


@dataclass(frozen=True, slots=True)
class Block:
    """Heads `low` to `high` of `count` texts of equal length; their weights start at `offset` of the flat memory for all.

    The views are made by as_strided, one call each, because a batch has many blocks and the calls would add up.
    """

    start: int
    count: int
    length: int
    low: int
    high: int
    offset: int

    @property
    def size(self) -> int:
        return self.count * (self.high - self.low) * self.length**2

    def weights(self, memory: Tensor) -> Tensor:
        """The block's part of flat memory as (count * heads, L, L)."""
        return self.square(memory, self.offset)

    def scratch(self, memory: Tensor) -> Tensor:
        """The front of memory that all blocks share, as (count * heads, L, L)."""
        return self.square(memory, 0)

    def square(self, memory: Tensor, offset: int) -> Tensor:
        n = self.length
        return memory.as_strided((self.count * (self.high - self.low), n, n), (n * n, n, 1), offset)

    def part(self, x: Tensor) -> Tensor:
        """View of the block's part of x (H, T, d) as (count, heads, L, d)."""
        head, token, width = x.stride()
        first = x.storage_offset() + self.low * head + self.start * token
        shape = (self.count, self.high - self.low, self.length, x.shape[2])
        return x.as_strided(shape, (self.length * token, head, token, width), first)

    def take(self, x: Tensor) -> Tensor:
        """The block's part of x (H, T, d) as (count * heads, L, d); a copy when there are several texts."""
        return self.part(x).flatten(0, 1)

    def put(self, out: Tensor, weights: Tensor, x: Tensor) -> None:
        """weights (count * heads, L, L) @ x (count * heads, L, d) into the block's part of out (H, T, d).

        Not with out=: torch computes a strided result matrix by matrix.
        """
        part = self.part(out)
        part.copy_(torch.bmm(weights, x).view(part.shape))


@lru_cache(maxsize=16)
def blocks_of(runs: tuple[Run, ...], heads: int) -> tuple[Block, ...]:
    """Cut the texts, and the heads of a long one, into blocks of at most BLOCK attention weights."""
    blocks, offset = [], 0
    for run in runs:
        text = run.length * run.length
        step = min(heads, max(1, BLOCK // text))
        texts = max(1, BLOCK // (text * heads)) if step == heads else 1
        for first in range(0, run.count, texts):
            for low in range(0, heads, step):
                count, high = min(texts, run.count - first), min(heads, low + step)
                blocks.append(Block(run.start + first * run.length, count, run.length, low, high, offset))
                offset += blocks[-1].size
    return tuple(blocks)


class BlockAttention(torch.autograd.Function):
    """softmax(q k^T * scale + bias) with dropout, times v, block by block; q, k, v (H, T, d) -> (T, H, d).

    Faster on a CPU than torch's attention, whose kernel knows no dropout and whose backward is slow: the weights of a
    block stay in the cache through all steps, dropout costs one random byte a weight (ops/dropout.py), and nothing is
    padded. The backward needs the weights (T x L numbers a head) and those bytes.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, runs: tuple[Run, ...], dropout: float, scale: float, bias: Tensor | None
    ) -> Tensor:
        blocks = blocks_of(runs, q.shape[0])
        total = blocks[-1].offset + blocks[-1].size
        largest = max(b.size for b in blocks)
        out = rows_like(v)
        keeps_weights = any(ctx.needs_input_grad[:3])
        memory = q.new_empty(total if keeps_weights else largest)
        scores_memory, kept_memory = q.new_empty(largest), q.new_empty(largest if dropout else 0)
        values, threshold = drop_bytes(total, dropout) if dropout else (None, 0)
        q = q * scale
        for block in blocks:
            scores = block.scratch(scores_memory)
            torch.bmm(block.take(q), block.take(k).transpose(1, 2), out=scores)
            if bias is not None:
                scores += bias[: block.length, : block.length]
            weights = block.weights(memory) if keeps_weights else block.scratch(memory)
            torch.softmax(scores, dim=-1, out=weights)
            if values is not None:
                kept = torch.ge(block.weights(values), threshold, out=block.scratch(kept_memory))
                weights = torch.mul(weights, kept, out=scores)
            block.put(out, weights, block.take(v))
        if dropout:
            out *= 1 / (1 - dropout)
        ctx.save_for_backward(q, k, v, memory, values)
        ctx.blocks, ctx.threshold, ctx.scale, ctx.dropout = blocks, threshold, scale, dropout
        return out.transpose(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, memory, values = ctx.saved_tensors  # q is scaled already
        largest = max(b.size for b in ctx.blocks)
        first, second = q.new_empty(largest), q.new_empty(largest)
        grad_q, grad_k, grad_v = rows_like(q), rows_like(k), rows_like(v)
        grad = (grad * (1 / (1 - ctx.dropout)) if ctx.dropout else grad).transpose(0, 1)
        for block in ctx.blocks:
            weights, g = block.weights(memory), block.take(grad)
            dropped, kept = weights, None
            if values is not None:
                kept = torch.ge(block.weights(values), ctx.threshold, out=block.scratch(first))
                dropped = torch.mul(weights, kept, out=block.scratch(second))
            block.put(grad_v, dropped.transpose(1, 2), g)
            grad_weights = torch.bmm(g, block.take(v).transpose(1, 2), out=block.scratch(second))
            if kept is not None:
                grad_weights *= kept
            grad_scores = block.scratch(first)
            torch.ops.aten._softmax_backward_data.out(grad_weights, weights, -1, weights.dtype, grad_input=grad_scores)
            block.put(grad_q, grad_scores, block.take(k))
            block.put(grad_k, grad_scores.transpose(1, 2), block.take(q))
        grad_q *= ctx.scale
        return grad_q, grad_k, grad_v, None, None, None, None


def rows_like(x: Tensor) -> Tensor:
    """Uninitialised (H, T, d) whose memory is laid out (T, H, d), as the layers before and after want it."""
    return x.new_empty(x.shape[1], x.shape[0], x.shape[2]).transpose(0, 1)
