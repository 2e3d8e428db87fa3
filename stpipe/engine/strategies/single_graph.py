"""Strategies with one forward and one backward of the wrapped module: `plain` and `recompute`."""

from __future__ import annotations

from dataclasses import dataclass

from torch.utils.checkpoint import checkpoint

from stpipe.config.registry import STRATEGIES
from stpipe.core.reps import Rep
from stpipe.engine.strategies.base import MicroBatch, Strategy
from stpipe.models.encoder import Encoder


@STRATEGIES.register("plain")
@dataclass(frozen=True)
class Plain(Strategy):
    """One forward, one backward. Activations of the whole batch are held: fastest while they fit."""

    def encode_part(self, encoder: Encoder, part: MicroBatch) -> Rep:
        return part.encode(encoder)


@STRATEGIES.register("recompute")
@dataclass(frozen=True)
class Recompute(Strategy):
    """Activations of one micro-batch at a time: each is computed again when its backward comes.

    One graph, one forward and one backward of the wrapped module, so it holds under every wrapper and for every loss; costs
    a second forward. The same memory as GradCache (arXiv:2101.06983), of which this is the checkpointed form.
    """

    def encode_part(self, encoder: Encoder, part: MicroBatch) -> Rep:
        return again_in_backward(encoder, part)


def again_in_backward(encoder: Encoder, part: MicroBatch) -> Rep:
    """Representations of a micro-batch whose activations are dropped, and computed again in the backward."""
    # The seed is set again inside the recomputation, so torch need not save and restore generator states.
    rep: Rep = checkpoint(part.encode, encoder, use_reentrant=False, preserve_rng_state=False)
    return rep
