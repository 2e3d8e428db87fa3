"""What a run will take, from a look at its model and its first batches: bytes on the device, and seconds on this machine.

Both are estimates. Memory is what weights, gradients, moments, activations and representations take, without what libraries keep for
themselves. Time is that of a forward and a backward here and now, times the tokens of the run; it says nothing of another machine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from stpipe.core.context import StepContext
from stpipe.data.stream import BatchStream
from stpipe.data.streaming import StreamBatches
from stpipe.engine.memory import BYTES_PER_PARAMETER, SAMPLE, activation_bytes
from stpipe.engine.strategies.base import MicroBatch
from stpipe.engine.train_module import TrainModule
from stpipe.pipeline.assemble import Parts

#: Strategies that run the forward twice, which makes a step a third longer.
TWICE = ("recompute", "two_pass")
#: Share of forward and backward that is the forward.
FORWARD = 1 / 3
#: Forwards and backwards that are timed; the first is for whatever is set up on the way.
REPEATS = 3


@dataclass(frozen=True)
class Estimate:
    """bytes: of a process's device at the worst moment, by what takes them; train_seconds, evaluation_seconds: of the whole run."""

    bytes: Mapping[str, float]
    train_seconds: float
    evaluation_seconds: float

    @property
    def total_bytes(self) -> float:
        return sum(self.bytes.values())


def estimate(parts: Parts, stream: BatchStream | StreamBatches, plan: Mapping[str, Any], *, device: str) -> Estimate:
    """Measure a little, and multiply.

    Args:
        parts: with strategies; the model moves to the device and stays there.
        stream: batches of one process.
        plan: of the run (pipeline/plan.py).
        device: to measure on.
    """
    module = parts.module().to(device)
    where = torch.device(device)
    worst = {name: stream.worst_case([name]) for name in parts.losses}
    activations = 0.0
    for name, batch in worst.items():
        strategy = parts.choices[name].strategy
        cost = strategy.cost(batch, layout=parts.model.encoder.layout, device_type=where.type)
        whole = activation_bytes(module, batch, precision=parts.root.trainer.precision, device=where)
        activations = max(activations, whole / (max(cost.micro_batches, 1) if strategy.name != "plain" else 1))
    module.to(device)
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    taken = {
        "weights": weights,
        "gradients and moments": BYTES_PER_PARAMETER * plan["trainable_parameters"],
        "activations": activations,
        "representations": max((float(s.get("pool_bytes", 0)) for s in plan["sources"].values()), default=0.0),
    }
    rate = seconds_per_token(module, next(iter(worst.values())), precision=parts.root.trainer.precision, device=where)
    return Estimate(taken, training_seconds(plan, rate), evaluating_seconds(parts, plan, rate))


def training_seconds(plan: Mapping[str, Any], rate: float) -> float:
    """Seconds of all steps, the processes sharing the tokens."""
    padded = 1 - float(plan.get("padding_share", 0.0))
    twice = 1 + FORWARD if any(name in plan["strategy"] for name in TWICE) else 1.0
    return float(plan["steps"] * plan["tokens_per_step"] / plan["processes"] / max(padded, 0.05) * rate * twice)


def evaluating_seconds(parts: Parts, plan: Mapping[str, Any], rate: float) -> float:
    """Seconds of all evaluations of the held-out rows: before, after, and in between."""
    if not parts.evaluators:
        return 0.0
    tokens = sum(float(source.lengths(role).sum()) for source in parts.data.eval.values() for role in source.roles)
    between = plan["steps"] // plan["evaluate_every"] if plan["evaluate_every"] else 0
    times = 1 + int(parts.root.trainer.evaluate_before) + between
    return tokens * rate * FORWARD * times / plan["processes"]


def seconds_per_token(module: TrainModule, batch: Any, *, precision: str, device: torch.device) -> float:
    """Seconds of forward and backward for a token, from the longest texts of a batch. Gradients are dropped."""
    batch = batch.to(device)
    group = module.groups(batch)[0]
    lengths = group.tokens.lengths
    longest = torch.argsort(lengths, descending=True, stable=True)
    rows = longest[: int((lengths[longest].cumsum(0) < SAMPLE).sum()) + 1]
    part = MicroBatch(rows, group.tokens.rows(rows), module.outputs(batch, StepContext()), group.route, seed=0)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    module.train()
    best = float("inf")
    for _ in range(REPEATS):
        wait_for(device)
        began = time.perf_counter()
        with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            rep = part.encode(module.network(twin=group.twin))
        rep.values.float().square().mean().backward()
        wait_for(device)
        best = min(best, time.perf_counter() - began)
        module.zero_grad(set_to_none=True)
    return best / max(int(lengths[rows].sum()), 1)


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
