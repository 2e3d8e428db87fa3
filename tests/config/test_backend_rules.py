"""What does not go together with a backend is refused by both keys, before torch is imported."""

from __future__ import annotations

import pytest

from stpipe.config.errors import ConfigError
from stpipe.config.load import load_config

BASE = ("model=dense", "model.name_or_path=some/model", "dataset.train=some/data", "dataset.format=pair")


def problems(*overrides: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as found:
        load_config([*BASE, *overrides])
    assert found.value.exit_code == 2
    return {p.key: p.message for p in found.value.problems}


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (("backend=deepspeed_zero2", "trainer.precision=fp16"), "trainer.precision", ("deepspeed", "backend.name", "bf16")),
        (("backend=deepspeed_zero3", "trainer.ema_decay=0.9"), "trainer.ema_decay", ("stage 3", "backend.name", "ddp")),
        (("backend=fsdp2", "trainer.ema_decay=0.9"), "trainer.ema_decay", ("fsdp2", "backend.name")),
        (("backend=fsdp2", "trainer.compile=true"), "trainer.compile", ("fsdp2", "backend.name")),
        (("backend=ddp", "trainer.device=mps"), "trainer.device", ("ddp", "cpu, cuda")),
        (("backend=deepspeed", "trainer.device=npu"), "trainer.device", ("deepspeed",)),
        (("backend=deepspeed_zero2", "backend.offload_parameters=true"), "backend.offload_parameters", ("backend.stage=3",)),
        (("backend=ddp", "+mine.rounds=2"), "mine.rounds", ("ddp", "backend.name")),
        (("backend=deepspeed", "backend.stage=4"), "backend.stage", ("3",)),
        (("backend=ddp", "strategy=micro"), "strategy.name", ("micro", "loss")),
        (("backend.num_processes=0",), "backend.num_processes", ("1",)),
        (("backend=single", "backend.num_processes=2"), "backend.num_processes", ("unknown key",)),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: tuple[str, ...], key: str, words: tuple[str, ...]) -> None:
    found = problems(*overrides)
    assert key in found, found
    for word in words:
        assert word in found[key], found[key]


@pytest.mark.parametrize(
    ("overrides", "name", "stage"),
    [
        ((), "single", None),
        (("backend.num_processes=2",), "ddp", None),
        (("backend=ddp",), "ddp", None),
        (("backend=fsdp2", "backend.num_processes=2"), "fsdp2", None),
        (("backend=deepspeed_zero1",), "deepspeed", 1),
        (("backend=deepspeed_zero3_offload",), "deepspeed", 3),
        (("backend=deepspeed_zero2", "trainer.ema_decay=0.9"), "deepspeed", 2),
    ],
)
def test_what_a_backend_resolves_to(overrides: tuple[str, ...], name: str, stage: int | None) -> None:
    backend = load_config([*BASE, *overrides]).values["backend"]
    assert (backend["name"], backend.get("stage")) == (name, stage)
