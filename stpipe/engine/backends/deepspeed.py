"""DeepSpeed's ZeRO: optimiser (stage 1), gradients (2) and parameters (3) cut over processes, with their home in the machine's memory on demand."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedType, InitProcessGroupKwargs
from torch import Tensor, nn
from transformers.integrations import unset_hf_deepspeed_config

from stpipe.config.errors import ConfigError, MissingExtraError, Problem
from stpipe.config.fields import option
from stpipe.config.registry import BACKENDS
from stpipe.core.peers import Peers
from stpipe.engine.backends.base import Distributed, join_group, reset_accelerate
from stpipe.engine.backends.runtime import Runtime
from stpipe.engine.backends.sharded import ShardedRuntime, exchange_parameters, move
from stpipe.models.modules import MaskedLanguageModel, SpladePooling


@BACKENDS.register("deepspeed", aliases=("DeepSpeed",))
@dataclass(frozen=True)
class DeepSpeed(Distributed):
    """ZeRO (arXiv:1910.02054). Weights and optimiser stay fp32 under bf16, which is autocast as in every other backend."""

    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16")

    stage: int = option(2, ge=1, le=3, help="What is cut over processes: 1 optimiser state, 2 gradients too, 3 parameters too.")
    offload_optimizer: bool = option(False, help="Keep optimiser state in the memory of the machine and update there.")
    offload_parameters: bool = option(False, help="Keep parameters there as well; stage 3.")
    small_parameters: int = option(
        100_000,
        ge=0,
        help="Stage 3: parameters with fewer elements stay whole on every device, because gathering them costs more than it saves.",
    )

    def __post_init__(self) -> None:
        if self.offload_parameters and self.stage < 3:
            raise ConfigError(Problem("backend.offload_parameters", f"needs stage 3, but backend.stage is {self.stage}"))

    def check(self, *, device: str, precision: str, processes: int) -> None:
        super().check(device=device, precision=precision, processes=processes)
        if precision not in self.precisions:
            raise ConfigError(Problem("trainer.precision", f"'{precision}' is not offered with backend 'deepspeed'; use bf16 or fp32"))
        if importlib.util.find_spec("deepspeed") is None:
            raise MissingExtraError("deepspeed", "deepspeed", "backend 'deepspeed'")

    def build(self, *, device: str, precision: str, max_grad_norm: float | None = None, peers: Peers | None = None) -> Runtime:
        peers = peers or Peers()
        self.check(device=device, precision=precision, processes=peers.size)
        import_deepspeed(device)
        reset_accelerate()
        join_group(peers, device)
        plugin = DeepSpeedPlugin(hf_ds_config=self.settings(max_grad_norm))
        # Without a backend of its own Accelerate would make every process on a CPU rank 0 of 1.
        handlers = [InitProcessGroupKwargs(backend="gloo")] if device == "cpu" else []
        accelerator = Accelerator(deepspeed_plugin=plugin, mixed_precision="no", kwargs_handlers=handlers)
        # Accelerate has told transformers of stage 3, which would then cut every model that it makes or loads in this process: one that an
        # evaluator compares with, that of the next run of a sweep. The model that is trained is cut in `prepare`.
        unset_hf_deepspeed_config()
        self.started(accelerator, peers, device, DistributedType.DEEPSPEED)
        runtime = ZeRO3Runtime if self.stage == 3 else ZeRORuntime
        return runtime(accelerator, peers, precision=precision, max_grad_norm=max_grad_norm)

    def settings(self, max_grad_norm: float | None) -> dict[str, Any]:
        """DeepSpeed's own configuration."""
        zero: dict[str, Any] = {"stage": self.stage, "overlap_comm": False}
        if self.offload_optimizer:
            zero["offload_optimizer"] = {"device": "cpu"}
        if self.offload_parameters:
            zero["offload_param"] = {"device": "cpu"}
        if self.stage == 3:
            zero["stage3_param_persistence_threshold"] = self.small_parameters
        return {
            "zero_optimization": zero,
            "train_micro_batch_size_per_gpu": 1,  # it only computes with this; the batches are ours
            "gradient_accumulation_steps": 1,
            # Several backwards before a step are ours, too; by its own count the last one would replace those before.
            "managed_gradient_accumulation": False,
            "gradient_clipping": max_grad_norm or 0.0,  # its default would clip at 1
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 1 << 40,
        }


#: What DeepSpeed warns of and is meant so, or measured (docs/equivalence.md): where it computes when it finds no GPU; optimisers other than its
#: own; that it sees no tensors in the dataclasses of stpipe, which no module with parameters of its own returns.
KNOWN = re.compile(r"Setting (ds_)?accelerator to|.*using ZeRO with an untested optimizer|A module has unknown .*<class 'stpipe\.")


def unknown(record: logging.LogRecord) -> bool:
    """Whether a message of DeepSpeed is news."""
    return not KNOWN.match(record.getMessage())


logging.getLogger("DeepSpeed").addFilter(unknown)  # before anything imports it, which is when it speaks first


def import_deepspeed(device: str) -> None:
    """Import it, without the operation that it would compile on a CPU.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ["DS_ACCELERATOR"] = device  # it would take a GPU that is there, and say at length when there is none
    try:
        import deepspeed.ops
    except ModuleNotFoundError as error:
        if error.name != "deepspeed":
            raise
        raise MissingExtraError("deepspeed", "deepspeed", "backend 'deepspeed'") from error
    # It tells at length what it does; a deprecation in torch that its calls meet is none of a user's business either.
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    if device == "cpu":
        # Sums through shared memory; building it takes a compiler and half a minute, and gloo does the same.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class ZeRORuntime(Runtime):
    """A module under DeepSpeed's engine, stages 1 and 2: every process has all weights."""

    def __init__(self, accelerator: Accelerator, peers: Peers, *, precision: str, max_grad_norm: float | None) -> None:
        super().__init__(accelerator, peers)
        self.precision, self.max_grad_norm = precision, max_grad_norm

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if getattr(module, "skips_parameters", False):
            raise ConfigError(
                Problem(
                    "backend.name",
                    "'deepspeed' moves weights that a batch does not use, as those of a Router's other route. Use ddp or fsdp2",
                )
            )
        if self.precision == "bf16":
            autocast(module, self.device.type)
        super().prepare(module, optimizer)

    @property
    def engine(self) -> Any:
        """DeepSpeed's engine."""
        return self.module

    @property
    def zero(self) -> Any:
        """DeepSpeed's optimiser, around that of torch."""
        return self.engine.optimizer

    @property
    def unwrapped(self) -> nn.Module:
        found: nn.Module = self.engine.module
        return found

    @contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        yield  # gradients are exchanged, or summed up to be, as DeepSpeed sees fit

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss)

    def clip_and_step(self, max_norm: float | None, rescale: Tensor | None) -> Tensor:
        assert max_norm == self.max_grad_norm, "the engine clips by what it was started with"
        if rescale is not None:
            self.zero.loss_scale = float(1 / rescale)  # what it divides the gradients by, before it takes their norm
        self.engine.step()
        self.zero.loss_scale = 1.0
        return torch.as_tensor(self.engine.get_global_grad_norm(), device=self.device)

    def forget_moments(self) -> None:
        self.zero.optimizer.state.clear()

    @property
    def parts_of_state(self) -> tuple[str, ...]:
        return ("module", self._own)

    @property
    def _own(self) -> str:
        return f"optimizer-{self.rank:05d}"

    def masters(self) -> list[Tensor]:
        """The weights that this process updates, flat, in fp32."""
        return list(self.zero.single_partition_of_fp32_groups)

    def own_state(self) -> dict[str, Any]:
        state = self.zero.optimizer.state
        return {self._own: [{"weights": m.detach(), "state": dict(state.get(m, {}))} for m in self.masters()]}

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.unwrapped.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.load_module(state["module"])
        with torch.no_grad():
            for master, saved in zip(self.masters(), state[self._own], strict=True):
                master.copy_(saved["weights"])
                self.zero.optimizer.state[master] = move(saved["state"], master.device)

    def load_module(self, state: Mapping[str, Tensor]) -> None:
        self.unwrapped.load_state_dict(state)

    def close(self) -> None:
        import deepspeed

        self.let_go()
        deepspeed.comm.destroy_process_group()


class ZeRO3Runtime(ShardedRuntime, ZeRORuntime):
    """Stage 3: parameters are cut over processes, too, and put together around each layer's computation."""

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        original = dict(module.named_parameters())
        trained = self.cut_off(module)
        exchange_parameters(optimizer, original, dict(trained.named_parameters()))
        ZeRORuntime.prepare(self, trained, optimizer)
        lend_vocabularies(self.unwrapped)

    def masters(self) -> list[Tensor]:
        return list(self.zero.fp32_partitioned_groups_flat)

    def weights(self) -> dict[str, Tensor]:
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        module = self.unwrapped
        parameters = dict(module.named_parameters(remove_duplicate=False))
        found: dict[str, Tensor] = {}
        for name, value in module.state_dict().items():
            if name not in parameters:
                found[name] = value.detach().cpu().clone()
                continue
            with GatheredParameters([parameters[name]]):
                found[name] = parameters[name].detach().cpu().clone() if self.is_main else value
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.weights()}

    def load_module(self, state: Mapping[str, Tensor]) -> None:
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        module = self.unwrapped
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                with GatheredParameters([parameter], modifier_rank=0):
                    if self.is_main:
                        parameter.copy_(state[name])
            for name, buffer in module.named_buffers():
                if name in state:
                    buffer.copy_(state[name])


def lend_vocabularies(module: nn.Module) -> None:
    """Have DeepSpeed put together the vocabulary of a masked-language-model head where it is used, in the pooling behind it.

    It gathers parameters around the module that owns them, which here hands the vocabulary on (models/modules/masked_lm.py).
    """
    from deepspeed.runtime.zero.partition_parameters import register_external_parameter

    vocabularies = [m.vocabulary for m in module.modules() if isinstance(m, MaskedLanguageModel) and m.vocabulary is not None]
    for pooling in module.modules():
        if isinstance(pooling, SpladePooling):
            for parameter in (p for v in vocabularies for p in (v.weight, v.bias) if p is not None):
                register_external_parameter(pooling, parameter)


def autocast(module: nn.Module, device_type: str) -> None:
    """Run the module's forward in bf16 where that is safe, by hooks around it."""
    entered: list[Any] = []

    def enter(*_: Any) -> None:
        entered.append(torch.autocast(device_type, dtype=torch.bfloat16))
        entered[-1].__enter__()

    def leave(*_: Any) -> None:
        entered.pop().__exit__(None, None, None)

    module.register_forward_pre_hook(enter, prepend=True)
    module.register_forward_hook(leave, always_call=True)
