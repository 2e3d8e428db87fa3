"""What activations take, and what there is for them."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stpipe.core.context import StepContext
from stpipe.engine import memory
from stpipe.engine.memory import Memory, activation_bytes, host_memory, memory_of, room_for_activations, saved_bytes
from stpipe.engine.strategies import MicroBatch, Plain, Recompute
from stpipe.engine.train_module import TrainModule
from stpipe.losses import CSRLoss, MultipleNegativesRankingLoss, SpladeLoss
from tests.engine.test_train_module import DOCUMENTS, QUERIES, autoencoder, batch_of, routed
from tests.engine.tiny import random_batch, tiny_encoder

CPU = torch.device("cpu")
GB = 1 << 30


def dense(layout: str = "packed") -> TrainModule:
    return TrainModule(tiny_encoder(layout=layout), {"default": MultipleNegativesRankingLoss()}, Recompute())


def all_saved(module: TrainModule, batch: Any) -> int:
    """Bytes that the forward of `plain` over a whole batch keeps, weights left out."""
    own = {x.untyped_storage().data_ptr() for x in module.encoder.parameters()}
    found = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in own:
            found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    plain = TrainModule(module.encoder, module.losses, Plain(), routes=module.routes)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        reps = plain.encode(batch, StepContext())
    assert reps
    return sum(found.values())


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_estimate_is_near_what_is_kept(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a fifth of the tokens; the longest texts, so it is rather too high."""
    module, batch = dense(layout), random_batch(200)
    monkeypatch.setattr(memory, "SAMPLE", batch.num_tokens // 5)
    found, kept = activation_bytes(module, batch, precision="fp32", device=CPU), all_saved(module, batch)
    assert 0.9 * kept < found < 2 * kept


def test_it_does_not_depend_on_the_moment() -> None:
    module, batch = dense(), random_batch(50)
    first = activation_bytes(module, batch, precision="fp32", device=CPU)
    ballast = [torch.zeros(1000, 1000) for _ in range(10)]
    assert activation_bytes(module, batch, precision="fp32", device=CPU) == first > 0
    del ballast


def test_half_precision_takes_less() -> None:
    module, batch = dense(), random_batch(50)
    full, half = (activation_bytes(module, batch, precision=p, device=CPU) for p in ("fp32", "bf16"))
    assert 0.4 * full < half < 0.95 * full


def test_twice_the_rows_take_twice_the_bytes() -> None:
    module = dense()
    one, two = random_batch(100), random_batch(200)
    found = [activation_bytes(module, batch, precision="fp32", device=CPU) for batch in (one, two)]
    assert found[1] / found[0] == pytest.approx(two.num_tokens / one.num_tokens, rel=0.15)


def test_every_route_counts() -> None:
    module = TrainModule(routed(), {"default": SpladeLoss()}, Recompute())
    batch = batch_of(*(texts.rows(torch.arange(60) % 5) for texts in (QUERIES, DOCUMENTS)))
    found, kept = activation_bytes(module, batch, precision="fp32", device=CPU), all_saved(module, batch)
    assert 0.9 * kept < found < 2 * kept


def test_the_module_is_left_as_it_was() -> None:
    module, sae = autoencoder()
    module.eval()
    module.encoder.stack[0].train()
    before = {name: x.clone() for name, x in module.state_dict().items()}
    assert isinstance(module.losses["default"], CSRLoss)
    assert activation_bytes(module, batch_of(QUERIES, DOCUMENTS), precision="fp32", device=CPU) > 0
    assert not module.training and module.encoder.stack[0].training and not sae.training
    assert not sae.fired.any() and all(p.grad is None for p in module.parameters())
    assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())


def test_weights_are_not_counted() -> None:
    encoder, tokens = tiny_encoder(), random_batch(2).columns["anchor"].tokens
    found = saved_bytes(encoder, MicroBatch(torch.arange(2), tokens, frozenset(), None, 0))
    for layer in encoder.backbone.model.encoder.layer:
        layer.intermediate.dense.weight.data = layer.intermediate.dense.weight.data.repeat(1, 1)
    assert found == saved_bytes(encoder, MicroBatch(torch.arange(2), tokens, frozenset(), None, 0)) > 0
    assert found < 10 * tokens.num_tokens * 16 * 4 * 20


def test_a_batch_of_one_text() -> None:
    module, batch = dense(), random_batch(1)
    assert activation_bytes(module, batch, precision="fp32", device=CPU) > 0


MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    9000000 kB\n"


def machine(folder: Path, **files: str) -> Path:
    (folder / "proc").mkdir()
    (folder / "sys/fs/cgroup").mkdir(parents=True)
    (folder / "proc/meminfo").write_text(MEMINFO)
    for name, text in files.items():
        (folder / "sys/fs/cgroup" / f"memory.{name}").write_text(text)
    return folder


def test_memory_of_the_machine(tmp_path: Path) -> None:
    assert host_memory(machine(tmp_path)) == Memory(16_000_000 * 1024, 9_000_000 * 1024)


def test_a_container_without_a_limit(tmp_path: Path) -> None:
    assert host_memory(machine(tmp_path, max="max\n", current="5")) == Memory(16_000_000 * 1024, 9_000_000 * 1024)


def test_the_limit_of_a_container(tmp_path: Path) -> None:
    stat = f"anon {GB}\ninactive_file {GB}\nactive_file {GB // 2}\n"
    found = host_memory(machine(tmp_path, max=f"{4 * GB}\n", current=f"{3 * GB}\n", stat=stat))
    assert found == Memory(4 * GB, 2.5 * GB)


def test_another_system(tmp_path: Path) -> None:
    found = host_memory(tmp_path)
    assert found.total == found.free > GB


def test_room(monkeypatch: pytest.MonkeyPatch) -> None:
    module = torch.nn.Linear(1000, 1000, bias=False)
    monkeypatch.setattr(memory, "memory_of", lambda device: Memory(16 * GB, 15 * GB))
    assert room_for_activations(module, CPU) == 8 * GB - 12e6
    assert room_for_activations(module, CPU, processes=4) == 2 * GB - 12e6
    monkeypatch.setattr(memory, "memory_of", lambda device: Memory(16 * GB, 5 * GB))
    assert room_for_activations(module.requires_grad_(False), CPU) == 4 * GB
    monkeypatch.setattr(memory, "memory_of", lambda device: Memory(16 * GB, 0))
    assert room_for_activations(module.requires_grad_(True), CPU) == 0


def test_this_machine() -> None:
    found = memory_of(CPU)
    assert found.total >= found.free > 0


def test_nothing_of_what_was_measured_stays_in_memory() -> None:
    """A graph that holds itself is seen by no collector, and would stay until the end of the run."""

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(4, 4))

    layer = Layer()

    class Part:
        def encode(self, encoder: Layer) -> Tensor:
            return torch.softmax(torch.tanh(torch.ones(8, 4) @ encoder.weight), -1)  # both keep what they give

    assert saved_bytes(layer, Part()) >= 8 * 4 * 4 * 2  # type: ignore[arg-type]
    weight = weakref.ref(layer.weight)
    del layer
    gc.collect()
    assert weight() is None
