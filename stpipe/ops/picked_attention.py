"""The last layer of a backbone for one token of each text.

A head that looks at one token needs the others only as keys and values of the last layer: its queries, its output and the wide
layers behind them are computed for one token a text instead of for all. With six layers that is a seventh of the whole forward and backward.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop

from stpipe.ops.packing import Packing

#: Names that attention modules give to the layers of keys and values, where nothing but these makes them of the hidden states.
PROJECTIONS = (("key", "value"), ("k_lin", "v_lin"))


def narrow_inputs(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Forward pre-hook (with keywords) of a layer: where the packing names picked tokens, only their hidden states go in, and those of
    all tokens are kept for the keys and values."""
    packing: Packing | None = kwargs.get("packing")
    if packing is None or packing.picked is None:
        return None
    hidden = args[0]
    picked = hidden.index_select(1, packing.picked)
    return (picked, *args[1:]), {**kwargs, "packing": replace(packing, whole=hidden)}


def picked_attention(module: Any, query: Tensor, packing: Packing, dropout: float, scale: float) -> Tensor:
    """Attention of one token of each text to all tokens of that text.

    Args:
        module: the attention module, whose keys and values are those of packing.whole.
        query: (H, N, d).
        packing: of the T tokens.
        dropout: of the weights.
        scale: of the products.

    Returns:
        (1, N, H, d)

    Raises:
        NotImplementedError: the module makes its keys in another way.
    """
    names = next((pair for pair in PROJECTIONS if all(isinstance(getattr(module, name, None), nn.Linear) for name in pair)), None)
    if names is None or packing.whole is None:
        raise NotImplementedError(f"keys of {type(module).__name__} for picked tokens")
    wide = torch.promote_types(query.dtype, torch.float32)
    key, value = (getattr(module, name)(packing.whole[0]).unflatten(1, (-1, query.shape[2])).to(wide) for name in names)  # (T, G, d)
    if key.shape[1] != query.shape[0]:
        raise NotImplementedError("groups of heads for picked tokens")
    tokens, texts = key.shape[0], query.shape[1]
    lengths = (packing.starts[1:] - packing.starts[:-1]).long()
    owner = torch.repeat_interleave(torch.arange(texts, device=query.device), lengths, output_size=tokens)
    asked = query.transpose(0, 1).to(wide)  # (N, H, d)
    scores = (asked.index_select(0, owner) * key).sum(-1) * scale  # (T, H)
    padded = scores.new_full((texts * packing.longest, scores.shape[1]), float("-inf")).index_copy(0, packing.places, scores)
    weights = padded.unflatten(0, (texts, packing.longest)).softmax(1).flatten(0, 1).index_select(0, packing.places)
    weights = drop(weights, dropout) if dropout else weights
    out = torch.zeros_like(asked).index_add(0, owner, weights[..., None] * value)
    return out.to(query.dtype)[None]
