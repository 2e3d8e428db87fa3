"""Whether the texts of a backbone can be packed: tried out on a few synthetic texts, because reading code cannot tell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stpipe.core.tokens import Tokens
from stpipe.models.modules.transformer import Transformer

LENGTHS = (5, 9, 9, 23)
TOLERANCE = 1e-5
HALF_TOLERANCE = 3e-2  # half precision rounds each layer; a wrong layout is off by far more
LONGEST_CHECK = 1024  # tokens; longer sliding windows are judged by what the layers ask for


def check_packing(backbone: Transformer) -> tuple[bool, str]:
    """Compare packed texts with the same texts one by one. Returns (exact, one line that says why or why not)."""
    model = backbone.model
    name = type(model).__name__
    if backbone.packing_obstacle is not None:
        return False, f"padded: {backbone.packing_obstacle}"
    if backbone.padded_attention not in ("sdpa", "eager") or not model._can_set_attn_implementation():
        return False, f"padded: {name} runs with attention '{backbone.padded_attention}' outside of what packing can replace"
    if "position_ids" not in backbone.parameters_of_forward:
        return False, f"padded: {name} takes no position ids"
    training, layout = model.training, backbone.layout
    model.eval()
    try:
        with torch.no_grad():
            return compare(backbone, name)
    except Exception as error:  # any failure of a foreign model's code means the same: do not pack
        return False, f"padded: {name} cannot run packed texts ({type(error).__name__}: {str(error).splitlines()[0][:120]})"
    finally:
        model.train(training)
        backbone.layout = layout


def compare(backbone: Transformer, name: str) -> tuple[bool, str]:
    windows: list[int | None] = []
    tokens = probe(backbone)
    backbone.layout = "packed"
    packed = run(backbone, tokens, windows=windows)
    if not windows:
        return False, f"padded: {name} does not call the attention registry"
    wanted = sliding_window(backbone)
    if wanted is not None and not any(windows) and int(tokens.lengths.max()) <= wanted:
        return False, f"padded: {name} has layers with a sliding window of {wanted} tokens that they do not hand to the attention function"
    difference = largest_difference(backbone, tokens, packed)
    tolerance = TOLERANCE if packed.dtype in (torch.float32, torch.float64) else HALF_TOLERANCE
    if not difference <= tolerance:  # NaN too
        return False, f"padded: {name} packed differs from single texts by {difference:.1e} of the largest value"
    if packed.is_cuda and packed.dtype == torch.float32:  # mixed precision takes another kernel there
        with torch.autocast("cuda", dtype=torch.bfloat16):
            backbone.layout = "packed"
            mixed = largest_difference(backbone, tokens, run(backbone, tokens))
        if not mixed <= HALF_TOLERANCE:
            return False, f"padded: {name} packed in bfloat16 differs from single texts by {mixed:.1e} of the largest value"
    backbone.layout = "packed"
    backbone.confirm_packing(tokens)
    return True, f"packed: no padding is computed (largest relative difference from single texts {difference:.1e})"


def largest_difference(backbone: Transformer, tokens: Tokens, packed: Tensor) -> float:
    """Between packed vectors (T, D) and those of the texts one by one, as a share of the largest value."""
    backbone.layout = "padded"
    single = torch.cat([run(backbone, tokens.rows(torch.tensor([i]))) for i in range(len(tokens))])
    return float((packed - single).abs().max() / single.abs().max().clamp(min=1e-12))


def run(backbone: Transformer, tokens: Tokens, **extra: Any) -> Tensor:
    vectors: Tensor = Transformer.forward(backbone, {"input_ids": tokens.ids, "lengths": tokens.lengths, **extra})["token_embeddings"]
    return vectors


def probe(backbone: Transformer) -> Tokens:
    """A few texts of random tokens, one of them longer than a sliding window where there is one."""
    longest = max(LENGTHS)
    window = sliding_window(backbone)
    if window is not None and window + 9 <= LONGEST_CHECK:
        longest = window + 9
    limit = backbone.position_limit or longest
    lengths = torch.tensor([min(n, limit) for n in (*LENGTHS, longest)])
    generator = torch.Generator().manual_seed(0)
    config = backbone.model.config.get_text_config()
    ids = torch.randint(1, config.vocab_size, (int(lengths.sum()),), generator=generator)
    ids[ids == backbone.pad_id] = (backbone.pad_id + 1) % config.vocab_size  # some models number positions by non-padding tokens
    return Tokens(ids.to(backbone.model.device), lengths)


def sliding_window(backbone: Transformer) -> int | None:
    """Tokens to one side that the layers with local attention see; None when all layers see everything."""
    config = backbone.model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    return window if isinstance(window, int) and (kinds is None or "sliding_attention" in kinds) else None
