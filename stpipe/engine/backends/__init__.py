"""Where a run is computed. The only package that knows Accelerate and DeepSpeed: devices, precision, processes, wrapping."""

from stpipe.engine.backends.base import Backend, Distributed
from stpipe.engine.backends.ddp import DDP
from stpipe.engine.backends.deepspeed import DeepSpeed
from stpipe.engine.backends.device import choose_device
from stpipe.engine.backends.fsdp2 import FSDP2
from stpipe.engine.backends.runtime import Runtime
from stpipe.engine.backends.single import Single

__all__ = ["DDP", "FSDP2", "Backend", "DeepSpeed", "Distributed", "Runtime", "Single", "choose_device"]
