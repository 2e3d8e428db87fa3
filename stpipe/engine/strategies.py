"""How the representations of a batch are computed. Every strategy gives the same gradients as every other.

All strategies cut the texts into the same micro-batches and draw the dropout of each from (seed, step, micro-batch,
rank), so they agree with dropout on, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stpipe.config.fields import option
from stpipe.config.registry import STRATEGIES
from stpipe.core.batch import Batch
from stpipe.core.context import StepContext
from stpipe.core.reps import Rep
from stpipe.core.tokens import Tokens
from stpipe.engine.planner import default_budget, padding_share, plan_micro_batches
from stpipe.models.encoder import Encoder


@dataclass(frozen=True)
class Strategy(ABC):
    """Computes the representations of all texts of a batch inside the one forward of TrainModule."""

    couplings: ClassVar[tuple[str, ...]] = ("row", "anchor", "batch")

    token_budget: int | None = option(
        None,
        ge=1,
        help="Most tokens of one forward through the backbone; None is 4,096 on a CPU and 32,768 on a GPU. Lower it when memory runs out.",
    )

    def encode(
        self,
        encoder: Encoder,
        tokens: Tokens,
        ctx: StepContext,
        outputs: frozenset[str] = frozenset(),
        *,
        route: str | None = None,
        first: int = 0,
    ) -> Rep:
        """Representations of all texts, in their order.

        Args:
            encoder: the model.
            tokens: the texts.
            ctx: of this step.
            outputs: further outputs that the loss asks for.
            route: the way that all these texts take through a Router.
            first: micro-batches of this batch that came before, so that none draws the dropout of another.
        """
        parts = self.plan(tokens.lengths, layout=encoder.layout, device_type=tokens.ids.device.type)
        reps = [self.encode_part(encoder, tokens.rows(rows), outputs, route, ctx.forward_seed(first + i)) for i, rows in enumerate(parts)]
        order = torch.cat(parts)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(order.numel())
        return Rep.cat(reps).rows(inverse.to(tokens.ids.device))

    def plan(self, lengths: Tensor, *, layout: str, device_type: str) -> list[Tensor]:
        """Rows of each micro-batch."""
        return plan_micro_batches(lengths, budget=self.token_budget or default_budget(device_type), layout=layout)

    def computed_tokens(self, batch: Batch, layout: str) -> float:
        """Tokens that the backbone computes for a batch, padding included."""
        if layout == "packed":
            return batch.num_tokens
        lengths = torch.cat([c.tokens.lengths for c in batch.columns.values()])
        parts = self.plan(lengths, layout=layout, device_type=batch.row.device.type)
        return batch.num_tokens / (1 - padding_share(lengths, parts, layout))

    @abstractmethod
    def encode_part(self, encoder: Encoder, tokens: Tokens, outputs: frozenset[str], route: str | None, seed: int) -> Rep:
        """Representations of one micro-batch."""


def seeded_forward(encoder: Encoder, tokens: Tokens, outputs: frozenset[str], route: str | None, seed: int) -> Rep:
    """One forward whose dropout depends on the seed only. Nothing else in a run may rely on the global generator."""
    torch.manual_seed(seed)
    return encoder(tokens, outputs, route)


@STRATEGIES.register("plain")
@dataclass(frozen=True)
class Plain(Strategy):
    """One forward, one backward. Activations of the whole batch are held: fastest while they fit."""

    def encode_part(self, encoder: Encoder, tokens: Tokens, outputs: frozenset[str], route: str | None, seed: int) -> Rep:
        return seeded_forward(encoder, tokens, outputs, route, seed)


@STRATEGIES.register("recompute")
@dataclass(frozen=True)
class Recompute(Strategy):
    """Activations of one micro-batch at a time: each is computed again when its backward comes.

    One graph, one forward and one backward of the wrapped module, so it holds under every wrapper and for every loss; costs
    a second forward. The same memory as GradCache (arXiv:2101.06983), of which this is the checkpointed form.
    """

    def encode_part(self, encoder: Encoder, tokens: Tokens, outputs: frozenset[str], route: str | None, seed: int) -> Rep:
        # The seed is set again inside the recomputation, so torch need not save and restore generator states.
        return checkpoint(seeded_forward, encoder, tokens, outputs, route, seed, use_reentrant=False, preserve_rng_state=False)
