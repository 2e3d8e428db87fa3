"""The choice of a strategy by the objective, the batch and the memory."""

from __future__ import annotations

from dataclasses import dataclass

from stpipe.config.registry import STRATEGIES
from stpipe.engine.strategies.base import Choice, Situation, Strategy
from stpipe.engine.strategies.single_graph import Plain, Recompute


@STRATEGIES.register("auto")
@dataclass(frozen=True)
class Auto(Recompute):
    """The fastest strategy that fits: `plain` where the activations of the costliest batch take at most half of the memory, else `micro`
    for losses that look at one row at a time and `recompute` for all others.

    Each data set has its own choice, which the plan states with its reason. A run that is continued keeps it. Before it has chosen,
    it computes like recompute.
    """

    def choose(self, situation: Situation) -> Choice:
        """The strategy for a data set. Collective: every process calls it."""
        if situation.earlier is not None:
            return Choice(self._as(situation.earlier), "as chosen when the run began")
        plain = Plain(self.token_budget, self.score_chunk)
        cost = plain.cost(situation.batch, layout=situation.layout, device_type=situation.device_type)
        if cost.micro_batches == 1:
            return Choice(plain, f"the longest batch is one micro-batch ({cost.tokens:,} tokens)")
        need, room = situation.need(), situation.room()
        found = f"activations of the longest batch ({cost.tokens:,} tokens) need about {in_words(need)}, {in_words(room)} may be used"
        if situation.largest(need - room) <= 0:
            return Choice(plain, found)
        row = situation.coupling == "row"
        why = "rows need nothing of each other" if row else "the loss compares rows, so their representations stay"
        return Choice(self._as("micro" if row else "recompute"), f"{found}; {why}")

    def _as(self, name: str) -> Strategy:
        chosen: Strategy = STRATEGIES.get(name)(self.token_budget, self.score_chunk)
        return chosen


def in_words(number: float) -> str:
    """Bytes with a unit: 512 bytes, 12.3 KB, 1.5 GB (powers of 1,024)."""
    for unit in ("bytes", "KB", "MB"):
        if number < 1000:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} GB"
