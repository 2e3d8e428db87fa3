"""Damaged texts for the losses that restore them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stpipe.data.noise import Boundaries, NoisyCollator
from stpipe.losses.base import Loss


def noisy_collators(losses: Mapping[str, Loss], tokenizer_of: Callable[[str], Any]) -> dict[str, NoisyCollator]:
    """Data set -> the collator that damages its anchors, for losses that ask for that.

    Args:
        losses: data set -> its loss.
        tokenizer_of: data set -> tokenizer of its anchors.
    """
    ratios = {name: loss.deleted_words() for name, loss in losses.items()}
    return {name: NoisyCollator(Boundaries.of(tokenizer_of(name)), ratio) for name, ratio in ratios.items() if ratio > 0}
