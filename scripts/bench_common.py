"""What the benchmarks against sentence-transformers share: data, batches, both trainers, clocks, and peak memory."""

from __future__ import annotations

import argparse
import ctypes
import gc
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn

from stpipe.config.sections import DatasetSection, TrainerSection
from stpipe.core.tokenize import RoleTokenizer
from stpipe.data.prepare import PreparedSource, prepare
from stpipe.data.samplers import NoDuplicatesSampler
from stpipe.data.stream import BatchStream, Collator
from stpipe.engine.backends import Single
from stpipe.engine.callbacks.base import Callback
from stpipe.engine.length import RunLength
from stpipe.engine.loop import Trainer
from stpipe.engine.optim import AdamW
from stpipe.engine.schedules import Linear
from stpipe.engine.strategies import Micro, Plain, Recompute, Strategy, TwoPass
from stpipe.engine.train_module import TrainModule
from stpipe.engine.views import VIEWS
from stpipe.losses.base import Loss
from stpipe.models.base_model import BaseModel
from stpipe.models.sparse_encoder import SparseEncoder
from stpipe.models.splade import SpladeModel
from stpipe.pipeline.training_texts import PreparedTexts

LR = 2e-5
WARMUP = 0.1
STRATEGIES: dict[str, type[Strategy]] = {"plain": Plain, "micro": Micro, "recompute": Recompute, "two_pass": TwoPass}


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# Peak memory


def resident_mib(field_name: str = "VmRSS", pid: int | str = "self") -> float:
    """Resident memory of a process now, or with VmHWM the most since its start or since `reset_peak` (Linux)."""
    found = re.search(rf"{field_name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found, f"this system does not tell {field_name}"
    return int(found[1]) / 1024


def reset_peak(device: str = "cpu") -> float:
    """MiB in use now, after giving back what is free; `peak_mib` is the most in use from here on.

    getrusage would count the parent's memory before exec, too. On a GPU: what torch's tensors take there.
    """
    gc.collect()
    if device.startswith("cuda"):
        synchronise()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # else freed memory would be used again and not be counted
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident_mib()


def peak_mib(device: str = "cpu") -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return resident_mib("VmHWM")


# Data and models


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default="stdlib://docstrings", help="stdlib://docstrings, a file such as train.jsonl, or a Hub id")
    parser.add_argument("--format", default="pair")
    parser.add_argument("--columns", default="", help="role=column,...")
    parser.add_argument("--rows", type=int, default=None)


def load_source(args: argparse.Namespace, tokenizer: Any, max_length: int, *, special_tokens: bool = True) -> PreparedSource:
    """The data as stpipe prepares it; all sides take their batches from it."""
    columns = dict(item.split("=") for item in args.columns.split(",")) if args.columns else {}
    section = DatasetSection(
        train=args.data, format=args.format, columns=columns, eval_rows=0, max_rows=args.rows, max_length={"default": max_length}
    )
    how = RoleTokenizer(tokenizer, special_tokens, max_length)
    data = prepare(section, tokenizers=lambda role, routes: how, offline=True)
    return data.train["default"]


def stream_of(source: PreparedSource, batch_size: int, collator: Collator | None = None, *, seed: int = 1) -> BatchStream:
    """The batches of every side, in their order. collator: for cross-encoders, makes the pairs."""
    return BatchStream(
        {"default": source},
        sampler=NoDuplicatesSampler(),
        batch_size={"default": batch_size},
        seed=seed,
        drop_last=True,
        collators={} if collator is None else {"default": collator},
    )


def choose_layout(model: BaseModel, layout: str | None) -> None:
    """The layout that was asked for, else what the self-check finds."""
    if layout is None:
        model.encoder.choose_layout()
    else:
        model.encoder.layout = layout


def splade_start(
    args: argparse.Namespace, max_length: int, dropout: float | None = None
) -> tuple[SparseEncoder, PreparedSource, tuple[str, ...]]:
    """A SPLADE model as training starts from it (a fresh head calibrated), the data, and what was done and found, a line each."""
    component = SpladeModel(args.model, max_seq_length=max_length, hidden_dropout=dropout, attention_dropout=dropout)
    model = component.build()
    model.encoder.choose_layout()
    source = load_source(args, model.tokenizer, max_length)
    return model, source, component.adapt(model, PreparedTexts({"default": source}, {"default": {}}, model.encoder.route_of))


# Both trainers


@dataclass
class Recorder(Callback):
    """What a trainer did: the time at the end of each step, the loss of each, and MiB at the peak above the state before."""

    device: str
    marks: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    base_mib: float = 0.0
    peak_mib: float = 0.0

    def start(self) -> None:
        self.base_mib = reset_peak(self.device)

    def step_done(self) -> None:
        synchronise()
        self.marks.append(time.perf_counter())
        self.peak_mib = peak_mib(self.device) - self.base_mib  # here, so that a checkpoint at the end does not count

    @property
    def seconds(self) -> float:
        """Of the steps but the first, which warms up allocators and kernels."""
        return self.marks[-1] - self.marks[0]

    def on_log(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        self.losses.append(float(values["loss"]))

    def on_step_end(self, trainer: Trainer) -> None:
        self.step_done()


@dataclass(frozen=True)
class Job:
    """What both trainers are told."""

    source: PreparedSource
    batch_size: int
    steps: int
    precision: str
    device: str
    workers: int = 0
    collator: Collator | None = None
    seed: int = 1

    def stream(self) -> BatchStream:
        return stream_of(self.source, self.batch_size, self.collator, seed=self.seed)

    def of_one_epoch(self) -> Job:
        """The same with as many steps as an epoch has."""
        return replace(self, steps=len(self.stream()))


def train_stpipe(job: Job, model: BaseModel, loss: Loss, *, strategy: str, token_budget: int | None) -> Recorder:
    """stpipe's own loop."""
    runtime = Single().build(device=job.device, precision=job.precision)
    computed = STRATEGIES[strategy](token_budget=token_budget)
    module = TrainModule(model.encoder, {"default": loss}, computed, view=VIEWS[model.kind]).to(runtime.device)
    runtime.prepare(module, AdamW(lr=LR).build(module))
    stream, recorder = job.stream(), Recorder(job.device)
    settings = TrainerSection(
        max_steps=job.steps,
        seed=job.seed,
        precision=job.precision,
        probe_first_step=False,
        save_steps=10**6,
        log_steps=1,
        num_workers=job.workers,
    )
    length = replace(RunLength.of(settings, len(stream)), save_every=10**9)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            runtime=runtime,
            stream=stream,
            length=length,
            schedule=Linear(warmup=WARMUP),
            settings=settings,
            folder=Path(folder),
            identity={},
            callbacks=[recorder],
        )
        recorder.start()
        trainer.fit()
    return recorder


class FixedBatches:
    """A batch sampler that gives exactly the batches of stpipe's stream."""

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """The order is fixed."""


def train_peer(job: Job, trainer_class: Any, model: Any, loss: nn.Module) -> Recorder:
    """A trainer of sentence-transformers, with the batches that stpipe takes."""
    from transformers import TrainerCallback

    rows = job.source.rows()
    columns: dict[str, Any] = {role: list(rows.columns[role]) for role in job.source.roles}
    if rows.labels is not None:
        columns["score"] = list(rows.labels)
    stream, recorder = job.stream(), Recorder(job.device)
    batches = [stream[i].row.tolist() for i in range(job.steps)]
    values: list[torch.Tensor] = []
    loss.register_forward_hook(lambda module, inputs, out: values.append(total(out).detach()))

    class Timer(TrainerCallback):
        def on_step_end(self, *unused: Any, **also: Any) -> None:
            recorder.step_done()

    with tempfile.TemporaryDirectory() as folder:
        arguments = trainer_class.training_args_class(
            output_dir=folder,
            max_steps=job.steps,
            per_device_train_batch_size=job.batch_size,
            learning_rate=LR,
            warmup_steps=WARMUP,
            seed=job.seed,
            bf16=job.precision == "bf16",
            fp16=job.precision == "fp16",
            use_cpu=job.device == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            batch_sampler=lambda dataset, **unused: FixedBatches(batches),
            dataloader_num_workers=job.workers,
        )
        trainer = trainer_class(model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=loss, callbacks=[Timer()])
        recorder.start()
        trainer.train()
    assert len(recorder.marks) == job.steps, f"expected {job.steps} steps, the peer made {len(recorder.marks)}"
    recorder.losses = [float(v) for v in values]
    return recorder


def total(out: torch.Tensor | Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The loss that the peer's trainer goes by: some of its losses come as terms."""
    return torch.stack(list(out.values())).sum() if isinstance(out, Mapping) else out
