"""How backends start, and what they refuse."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn

from stpipe.config.errors import ConfigError, MissingExtraError
from stpipe.core.peers import Peers
from stpipe.engine.backends import DDP, FSDP2, Backend, DeepSpeed, Runtime, Single
from stpipe.engine.backends.deepspeed import autocast, import_deepspeed
from stpipe.engine.backends.fsdp2 import layers, refuse_scalars
from stpipe.models.encoder import Encoder
from tests.engine.tiny import tiny_encoder

ALONE: dict[str, Backend] = {
    "ddp": DDP(),
    "fsdp2": FSDP2(),
    "zero1": DeepSpeed(stage=1),
    "zero2": DeepSpeed(),
    "zero2 offload": DeepSpeed(offload_optimizer=True),
    "zero3": DeepSpeed(stage=3, small_parameters=0),
    "zero3 offload": DeepSpeed(stage=3, small_parameters=0, offload_optimizer=True, offload_parameters=True),
}


class Two(Peers):
    """As if there were two processes."""

    size = 2


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Backends write the variables of a launcher."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_single_refuses_processes_of_a_launcher() -> None:
    with pytest.raises(ConfigError, match=r"launcher started 2.*backend=ddp"):
        Single().build(device="cpu", precision="fp32", peers=Two())


@pytest.mark.parametrize("backend", [DDP(num_processes=3), FSDP2(num_processes=3), DeepSpeed(num_processes=3)])
def test_another_number_of_processes_than_the_launcher_started_is_refused(backend: Backend) -> None:
    with pytest.raises(ConfigError, match=r"num_processes: is 3, but the launcher started 2"):
        backend.build(device="cpu", precision="fp32", peers=Two())


@pytest.mark.parametrize("backend", [Single(), DDP(), FSDP2(), DeepSpeed()])
def test_fp16_on_a_cpu_is_refused(backend: Backend) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.precision"):
        backend.build(device="cpu", precision="fp16")


def test_unconnected_processes_are_seen() -> None:
    """What Accelerate gives when a launch mode silently starts one process is not what was asked for."""
    backend = DDP()
    runtime = Single().build(device="cpu", precision="fp32")
    with pytest.raises(ConfigError, match=r"NO on cpu, rank 0 of 1 instead of MULTI_CPU on cpu, rank 0 of 2"):
        backend.started(runtime.accelerator, Two(), "cpu", DistributedType.MULTI_CPU)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ALONE))
def test_a_step_and_its_state_in_one_process(name: str) -> None:
    """Two steps equal one step, its state in a fresh backend, and another step; the whole model has the weights."""
    backend = ALONE[name]

    def start() -> tuple[Runtime, nn.Module]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        runtime = backend.build(device="cpu", precision="fp32", max_grad_norm=1.0)
        runtime.prepare(module, torch.optim.AdamW(module.parameters(), lr=0.1))
        return runtime, module

    def step(runtime: Runtime, seed: int) -> None:
        x = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
        with runtime.accumulating(last=True):
            runtime.backward(runtime.module(x).square().sum())
        assert float(runtime.clip_and_step(1.0, None)) > 0.01

    runtime, module = start()
    before = {k: v.clone() for k, v in runtime.state_dict()["module"].items()}
    step(runtime, 1)
    saved = torch.load(written({**runtime.state_dict(), **runtime.own_state()}), weights_only=True)
    step(runtime, 2)
    expected = {k: v.clone() for k, v in runtime.state_dict()["module"].items()}
    with runtime.whole_model():
        assert all(torch.equal(v, expected[k]) for k, v in module.state_dict().items())
    runtime.close()
    runtime, module = start()
    assert set(saved) >= set(runtime.parts_of_state)
    runtime.load_state_dict(saved)
    step(runtime, 2)
    runtime.finish()
    assert all(torch.equal(v, expected[k]) for k, v in module.state_dict().items())
    assert max(float((expected[k] - before[k]).abs().max()) for k in before) > 0.1
    runtime.close()


@pytest.mark.slow
def test_other_models_stay_whole_beside_one_under_stage_3() -> None:
    """Those of evaluators, and of the next run in the same process."""
    from transformers import AutoModel, BertConfig

    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    module = nn.Linear(4, 2)
    runtime = ALONE["zero3"].build(device="cpu", precision="fp32")
    try:
        runtime.prepare(module, torch.optim.AdamW(module.parameters()))
        assert {p.numel() for p in runtime.module.parameters()} == {0}, "it is cut"
        assert all(p.numel() for p in AutoModel.from_config(config).parameters())
    finally:
        runtime.close()
    assert all(p.numel() for p in AutoModel.from_config(config).parameters())


def written(value: object) -> io.BytesIO:
    """As a file holds it."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file


def test_layers_are_what_is_cut_apart() -> None:
    encoder: Encoder = tiny_encoder()
    found = layers(encoder)
    assert [type(layer).__name__ for layer in found] == ["BertLayer", "BertLayer"]
    assert layers(nn.Linear(2, 2)) == []


def test_autocast_by_hooks() -> None:
    module = nn.Linear(4, 4)
    autocast(module, "cpu")
    assert module(torch.ones(1, 4)).dtype == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")
    with pytest.raises(RuntimeError):
        module(torch.ones(1, 3))
    assert not torch.is_autocast_enabled("cpu"), "left also when the forward fails"


def test_deepspeed_says_only_what_is_news() -> None:
    logger, heard = logging.getLogger("DeepSpeed"), io.StringIO()
    handler = logging.StreamHandler(heard)
    logger.addHandler(handler)
    try:
        for message in (
            "Setting accelerator to CPU. If you have GPU or other accelerator, we were unable to detect it.",
            "**** You are using ZeRO with an untested optimizer, proceed with caution *****",
            "A module has unknown inputs or outputs type (<class 'stpipe.core.reps.Rep'>) and the tensors embedded in it cannot be detected.",
            "A module has unknown inputs or outputs type (<class 'mine.Rep'>)",
            "overflow",
        ):
            logger.warning(message)
    finally:
        logger.removeHandler(handler)
    assert heard.getvalue().splitlines() == ["A module has unknown inputs or outputs type (<class 'mine.Rep'>)", "overflow"]


def test_layers_that_share_parameters_are_cut_with_the_whole() -> None:
    """As those of a decoder that is tied to its encoder; a parameter can be cut only once."""
    module = nn.ModuleDict(
        {"one": nn.ModuleList(nn.Linear(2, 2) for _ in range(3)), "two": nn.ModuleList(nn.Linear(2, 2) for _ in range(3))}
    )
    assert len(layers(module)) == 6
    module["two"][1].weight = module["one"][0].weight
    one, two = module["one"], module["two"]
    assert layers(module) == [one[1], one[2], two[0], two[2]]
    module["one"][2].bias = module["one"][2].weight  # within one layer
    assert layers(module) == [one[1], one[2], two[0], two[2]]


def test_parameters_without_dimensions_are_refused_where_they_would_be_cut() -> None:
    module = nn.Linear(2, 2)
    module.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ConfigError, match=r"'fsdp2' cannot cut parameters without dimensions, here scale.*\(1,\)"):
        refuse_scalars(module)
    refuse_scalars(nn.Linear(2, 2))


def test_parameters_have_another_home_under_stage_3_only() -> None:
    with pytest.raises(ConfigError, match="needs stage 3"):
        DeepSpeed(stage=2, offload_parameters=True)


def test_a_missing_deepspeed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "deepspeed"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_NoDeepSpeed(), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=r"stpipe\[deepspeed\]"):
        import_deepspeed("cpu")


class _NoDeepSpeed:
    """Finds modules as if DeepSpeed were not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] == "deepspeed":
            raise ModuleNotFoundError(f"No module named '{name}'", name="deepspeed")
