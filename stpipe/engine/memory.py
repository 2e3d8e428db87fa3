"""How much memory the activations of a batch take, and how much there is for them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stpipe.core.batch import Batch
from stpipe.core.context import StepContext
from stpipe.engine.planner import computed_tokens
from stpipe.engine.strategies.base import MicroBatch
from stpipe.models.encoder import Encoder

if TYPE_CHECKING:
    from stpipe.engine.train_module import Group, TrainModule

#: Tokens of the forward that is measured: enough for the rates of a longer one, little enough for large models.
SAMPLE = 1024
#: Share of all memory that activations may take, and of what is free now. The first decides on a machine that does nothing else, so that
#: runs on it decide alike; the rest is for what a backward needs besides, for evaluation and for what the measurement does not see.
SHARE_OF_ALL, SHARE_OF_FREE = 0.5, 0.8
#: Bytes that each trained parameter will take before the first step is done: its gradient and two moments in float32.
BYTES_PER_PARAMETER = 12
#: Where the system does not tell its memory.
UNKNOWN = 4 << 30


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a device: all, and free now."""

    total: float
    free: float


def memory_of(device: torch.device) -> Memory:
    """Memory of the device; of the machine, or what a container may take of it, for the CPU."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(total, free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return Memory(total, total - torch.mps.driver_allocated_memory())
    if device.type == "cpu":
        return host_memory()
    return Memory(UNKNOWN, UNKNOWN)


def host_memory(root: Path = Path("/")) -> Memory:
    """Of this machine (Linux), within the limit of a control group when one is set. root: of the file system, for tests."""
    table = root / "proc/meminfo"
    if not table.is_file():
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}) else UNKNOWN
        return Memory(found, found)
    lines = dict(line.split(":", 1) for line in table.read_text().splitlines() if ":" in line)
    total, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    limit, used = (_number(root / "sys/fs/cgroup" / name) for name in ("memory.max", "memory.current"))
    if limit is not None and limit < total:
        # Cached files count as used, but are given back on demand.
        files = dict(line.split() for line in _lines(root / "sys/fs/cgroup/memory.stat"))
        held = (used or 0) - int(files.get("inactive_file", 0)) - int(files.get("active_file", 0))
        return Memory(limit, min(free, limit - held))
    return Memory(total, free)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def _number(path: Path) -> int | None:
    """Content of a file as a number; None for no file and for `max`."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def room_for_activations(module: nn.Module, device: torch.device, *, processes: int = 1) -> float:
    """Bytes that the activations of a batch may take.

    Args:
        module: what is trained, before its first step.
        device: where.
        processes: that share the device's memory.
    """
    memory = memory_of(device)
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return max(min(SHARE_OF_ALL * memory.total, SHARE_OF_FREE * memory.free) / processes - BYTES_PER_PARAMETER * trained, 0.0)


def activation_bytes(module: TrainModule, batch: Batch, *, precision: str, device: torch.device) -> float:
    """Bytes of all tensors that a backward through the whole batch would need, from a forward through its longest texts.

    The rate per token is that between two such forwards, so what does not grow with the texts is left out. It depends on the model,
    the texts and the precision only, not on the state of the machine. The module is left as it was.

    Args:
        module: on any device; it is moved, and moved back.
        batch: on any device.
        precision: of the matrix products.
        device: to measure on.
    """
    before, modes = module.encoder.device, {part: part.training for part in module.modules()}
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    module.to(device).train()
    try:
        with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            return sum(_bytes_of(module, group, batch, device) for group in module.groups(batch.to(device)))
    except torch.OutOfMemoryError:
        return float("inf")
    finally:
        module.forget()
        module.to(before)
        for part, mode in modes.items():
            part.training = mode


def _bytes_of(module: TrainModule, group: Group, batch: Batch, device: torch.device) -> float:
    """Of all texts of a group."""
    lengths, layout = group.tokens.lengths, module.encoder.layout
    outputs = module.outputs(batch, StepContext())
    longest = torch.argsort(lengths, descending=True, stable=True)
    count = int((lengths[longest].cumsum(0) < SAMPLE).sum()) + 1
    count = min(max(count, 2), len(longest))

    def forward(number: int) -> tuple[int, int]:
        """Bytes that the longest texts leave for the backward, and tokens that they take."""
        rows = longest[:number]
        part = MicroBatch(rows, group.tokens.rows(rows), outputs, group.route, seed=0)
        return saved_bytes(module.network(twin=group.twin), part), computed_tokens(lengths[rows], [torch.arange(number)], layout)

    whole, tokens = forward(count)
    fewer, fewer_tokens = forward(count // 2) if count > 1 else (0, 0)
    plan = module.strategies[batch.source].plan(lengths, layout=layout, device_type=device.type)
    return (whole - fewer) / (tokens - fewer_tokens) * computed_tokens(lengths, plan, layout)


def saved_bytes(encoder: Encoder, part: MicroBatch) -> int:
    """Bytes of what a forward keeps for its backward, weights left out. Activations that the backbone itself computes again
    (gradient checkpointing) are not kept, and not counted."""
    own = {x.untyped_storage().data_ptr() for x in (*encoder.parameters(), *encoder.buffers())}
    found: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        if x.layout == torch.strided and x.untyped_storage().data_ptr() not in own:
            found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x.detach()  # x may be what this very node gives: a node that held it would hold itself, and the graph would never go

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        rep = part.encode(encoder)  # kept until all is counted, so that no address is used twice
    total = sum(found.values())
    del rep
    return total
