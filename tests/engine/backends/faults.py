"""Seeded faults: ways in which several processes go quietly wrong, each put into a measurement of scripts/equivalence_cells.py.

Every one takes the place of a part that the library is handed anyway (the view, the sampler, the rows, the accumulation of gradients,
an attribute that DDP reads), so nothing of stpipe is edited or patched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from scripts.equivalence_cells import Cell, Variant, share
from stpipe.core.batch import Batch
from stpipe.core.reps import Column
from stpipe.data.samplers import RandomSampler
from stpipe.engine.accumulation import Accumulation
from stpipe.engine.train_module import TrainModule
from stpipe.engine.views import View

TASK, OTHER = "mnrl", "mega_batch_margin"


def several() -> bool:
    """Whether this is a measurement, not its reference, which one process computes."""
    return dist.is_initialized()


def shifted_labels(view: View) -> View:
    """The labels that were gathered stand one process further than their rows."""

    def found(*given: Any) -> Any:
        batch = view(*given)
        if not several():
            return batch
        score = batch.targets.score
        return replace(batch, targets=replace(batch.targets, score=score.roll(score.numel() // dist.get_world_size())))

    return found


def shifted_positives(view: View) -> View:
    """Each anchor takes the positive of the process before for its own."""

    def found(*given: Any) -> Any:
        batch = view(*given)
        if not several():
            return batch
        own = (batch.row_all[:, None] == batch.row[None, :]).float().argmax(0)
        return replace(batch, row=batch.row_all[(own + len(batch)) % batch.row_all.numel()])

    return found


def local_pool(view: View) -> View:
    """What is taken over the rows of all processes is taken over those of each; a row-coupled loss inside does not notice, FLOPS do."""

    def found(*given: Any) -> Any:
        batch = view(*given)
        return replace(batch, columns={role: Column(c.local, c.local, c.text_id[: len(batch)]) for role, c in batch.columns.items()})

    return found


class TimesWorldSize(Accumulation):
    """The loss is multiplied by the number of processes once more, as for a gather whose gradient is averaged."""

    def scale(self, count: Tensor, *, share: float = 1.0) -> Tensor:
        return super().scale(count, share=share) * self.runtime.world_size


def loss_parameters_alone(module: TrainModule) -> None:
    """DDP is told to leave the parameters of the loss alone: each process has its own."""
    names = [name for name, _ in module.named_parameters() if name.startswith("objectives.")]
    assert names
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)


def another_task(batch: Batch, rank: int, size: int) -> Batch:
    """The last process draws another data set than the others, with the same rows."""
    part = share(batch, rank, size)
    negatives = batch.source.split("/")[1]
    return replace(part, source=f"{OTHER}/{negatives}") if rank == size - 1 else part


@dataclass(frozen=True)
class FirstEpochAgain(RandomSampler):
    """Every epoch has the order of the first."""

    def batches(self, source: Any, *, batch_size: int, seed: int, epoch: int, drop_last: bool = False) -> list[np.ndarray]:
        return super().batches(source, batch_size=batch_size, seed=seed, epoch=0, drop_last=drop_last)


@dataclass(frozen=True)
class Fault:
    """A cell that is right as it is, and the variant that is not. beside: further tasks that the module computes."""

    cell: Cell
    variant: Variant
    beside: tuple[str, ...] = ()

    def cells(self, name: str) -> list[Cell]:
        """With the fault and without it, of every task."""
        return [replace(self.cell, task=task, fault=fault) for fault in ("", name) for task in (self.cell.task, *self.beside)]


def _cell(task: str, negatives: int = 0, *, strategy: str = "recompute", batches: int = 1, epochs: int = 0) -> Cell:
    return Cell(task, negatives, strategy, "ddp", 2, batches, epochs=epochs)


FAULTS: Mapping[str, Fault] = {
    "gathered labels shifted by one rank": Fault(_cell("cosent"), Variant(view=shifted_labels)),
    "positives shifted by one rank": Fault(_cell(TASK, 1), Variant(view=shifted_positives)),
    "gradient scaled by world size": Fault(_cell("triplet", 1, strategy="plain", batches=2), Variant(accumulation=TimesWorldSize)),
    "unsynchronised loss parameters": Fault(_cell("softmax"), Variant(before_start=loss_parameters_alone)),
    "another task on one rank": Fault(_cell(TASK), Variant(share=another_task), (OTHER,)),
    "a sampler that repeats epoch 0": Fault(_cell(TASK, epochs=2), Variant(sampler=FirstEpochAgain())),
    "a dropped last batch": Fault(_cell(TASK, epochs=1), Variant(drop_last=True)),
    "FLOPS of the local batch only": Fault(_cell("splade of margin_mse", 1), Variant(view=local_pool)),
}
VARIANTS = {name: fault.variant for name, fault in FAULTS.items()}
