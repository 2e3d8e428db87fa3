"""How the batches of a run are computed: the strategy of each data set, and what its batches cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from statistics import fmean

import torch

from stpipe.core.batch import Batch
from stpipe.data.stream import BatchStream
from stpipe.data.streaming import StreamBatches
from stpipe.engine.backends import Runtime
from stpipe.engine.checkpoint import Checkpoint
from stpipe.engine.memory import activation_bytes, room_for_activations
from stpipe.engine.strategies import Choice, Situation
from stpipe.pipeline.assemble import Parts

#: Batches that the costs of a data set are averaged over, and batches of the stream that are looked through for them.
SAMPLED, SEARCHED = 4, 64


def with_strategies(parts: Parts, stream: BatchStream | StreamBatches, runtime: Runtime, checkpoint: Checkpoint | None) -> Parts:
    """The parts with a strategy for each data set: the configured one, what `auto` chooses, or what the continued run had.

    A collective: all processes choose alike.
    """
    module, device, root = parts.module(), runtime.device, parts.root
    earlier = {} if checkpoint is None else checkpoint.state().get("strategies", {})

    @cache
    def room() -> float:
        processes = runtime.world_size if device.type == "cpu" else 1
        return room_for_activations(module, device, processes=processes)

    def largest(value: float) -> float:
        return float(runtime.maximum(torch.tensor(value, device=device)))

    choices: dict[str, Choice] = {}
    for name, loss in parts.losses.items():
        worst = stream.worst_case([name])
        choices[name] = root.strategy.choose(
            Situation(
                worst,
                loss.effective_coupling(),
                parts.model.encoder.layout,
                device.type,
                need=partial(activation_bytes, module, worst, precision=root.trainer.precision, device=device),
                room=room,
                largest=largest,
                earlier=earlier.get(name),
            )
        )
    return replace(parts, choices=choices)


@dataclass(frozen=True)
class BatchCost:
    """Means over some batches of a data set on one process: forwards through the backbone, padding among the tokens that they compute,
    tokens and texts (of cross-encoders: pairs) of a row, and bytes of the representations that the loss holds, of all processes together."""

    micro_batches: float
    padding_share: float
    row_tokens: float
    row_texts: float
    pool_bytes: float


def batch_costs(parts: Parts, stream: BatchStream | StreamBatches, *, device: str) -> dict[str, BatchCost]:
    """Data set -> what its batches cost, from the first ones of the run that are of it; one that none is of has none."""
    found: dict[str, list[Batch]] = {}
    for i in range(min(len(stream), SEARCHED)):
        if len(found) == len(parts.losses) and all(len(batches) == SAMPLED for batches in found.values()):
            break  # a stream would be read on for nothing
        name, _ = stream.rows(i)
        if len(found.setdefault(name, [])) < SAMPLED:
            found[name].append(stream[i])
    return {name: _cost(parts, name, batches, stream.world_size, device) for name, batches in found.items()}


def _cost(parts: Parts, name: str, batches: list[Batch], world_size: int, device: str) -> BatchCost:
    encoder = parts.model.encoder
    costs = [parts.choices[name].strategy.cost(batch, layout=encoder.layout, device_type=device) for batch in batches]
    real, computed = sum(b.num_tokens for b in batches), sum(c.tokens for c in costs)
    rows, texts = sum(len(b) for b in batches), sum(len(column.tokens) for b in batches for column in b.columns.values())
    pool = texts / len(batches) * world_size * encoder.embedding_dim * 4
    return BatchCost(fmean(c.micro_batches for c in costs), 1 - real / computed, real / rows, texts / rows, pool)


def strategy_lines(choices: Mapping[str, Choice]) -> list[str]:
    """One line for each strategy and reason, with the data sets that it is for where there are several."""
    lines: dict[str, list[str]] = {}
    for name, choice in choices.items():
        lines.setdefault(f"{choice.strategy.name}: {choice.reason}", []).append(name)
    return [line if len(lines) == 1 else f"{line} ({', '.join(names)})" for line, names in lines.items()]
