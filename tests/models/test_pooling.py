"""Pooling modes against plain loops, with prompts, concatenation and half precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stpipe.config.errors import ConfigError
from stpipe.models.modules import Normalize, Pooling
from stpipe.models.modules.pooling import MODES

LENGTHS = torch.tensor([5, 1, 9, 4])
PROMPTS = torch.tensor([2, 1, 3, 4])


def by_hand(mode: str, tokens: Tensor, skip: int) -> Tensor:
    """One text (L, D)."""
    kept = tokens[skip:]
    positions = torch.arange(1, len(tokens) + 1, dtype=tokens.dtype)[skip:, None]
    match mode:
        case "cls":
            return kept[0] if len(kept) else tokens[0]
        case "lasttoken":
            return tokens[-1]
        case "max":
            return kept.max(0).values if len(kept) else torch.full_like(tokens[0], float("-inf"))
        case "mean":
            return kept.sum(0) / max(len(kept), 1)
        case "mean_sqrt_len_tokens":
            return kept.sum(0) / max(len(kept), 1) ** 0.5
        case _:
            return (kept * positions).sum(0) / positions.sum().clamp(min=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("include_prompt", [True, False])
def test_modes(mode: str, include_prompt: bool) -> None:
    tokens = torch.randn(int(LENGTHS.sum()), 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    features = {"token_embeddings": tokens, "lengths": LENGTHS, "prompt_lengths": PROMPTS}
    found = Pooling(6, mode=mode, include_prompt=include_prompt)(features)["sentence_embedding"]
    skips = [0] * 4 if include_prompt else PROMPTS.tolist()
    expected = torch.stack([by_hand(mode, text, skip) for text, skip in zip(tokens.split(LENGTHS.tolist()), skips, strict=True)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    finite = torch.isfinite(expected).all(1)
    assert int(finite.sum()) >= 2
    grads = [torch.autograd.grad(x[finite].pow(2).sum(), tokens, retain_graph=True)[0] for x in (found, expected)]
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-12)
    assert "sentence_embedding" not in features


def test_concatenation_keeps_the_order_given() -> None:
    tokens = torch.randn(int(LENGTHS.sum()), 6)
    features = {"token_embeddings": tokens, "lengths": LENGTHS, "prompt_lengths": None}
    both = Pooling(6, mode=("max", "cls"))
    parts = [Pooling(6, mode=m)(features)["sentence_embedding"] for m in ("max", "cls")]
    torch.testing.assert_close(both(features)["sentence_embedding"], torch.cat(parts, dim=1))
    assert both.output_dim(6) == 12


@pytest.mark.parametrize("mode", ["mean", "mean_sqrt_len_tokens", "weightedmean"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_float32(mode: str, dtype: torch.dtype) -> None:
    """A sum of 4,000 bfloat16 ones stops at 256; only a wide accumulator gets it right."""
    length = torch.tensor([4000])
    tokens = torch.ones(4000, 3, dtype=dtype)
    found = Pooling(3, mode=mode)({"token_embeddings": tokens, "lengths": length})["sentence_embedding"]
    assert found.dtype == dtype
    expected = 4000**0.5 if mode == "mean_sqrt_len_tokens" else 1.0
    torch.testing.assert_close(found.double(), torch.full((1, 3), expected, dtype=torch.float64), rtol=5e-3, atol=0)


def test_unknown_mode_is_named() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'mean'"):
        Pooling(3, mode="meen")
    with pytest.raises(ConfigError, match="embedding_dimension"):
        Pooling.from_config({})


def test_normalize() -> None:
    x = torch.randn(3, 5)
    out = Normalize()({"sentence_embedding": x})["sentence_embedding"]
    torch.testing.assert_close(out.norm(dim=1), torch.ones(3))
    named = Normalize(input_name="token_embeddings")({"token_embeddings": x, "sentence_embedding": x})
    assert named["sentence_embedding"] is x
