"""How the runs of a command are computed: in this process, in processes that it starts, or in those that a launcher started."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from stpipe.config.errors import ConfigError, Problem
from stpipe.core.world import find_world
from stpipe.launch.task import Task

if TYPE_CHECKING:
    from stpipe.config.load import Loaded
    from stpipe.core.peers import ConnectedPeers


class Launch:
    """Trains or evaluates, once or several times in a row (a sweep); a context manager.

    Raises:
        ConfigError: the environment names this process's place among others by half.
    """

    def __init__(self) -> None:
        self.world = find_world(os.environ)
        self._peers: ConnectedPeers | None = None

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._peers is not None:
            self._peers.close()

    def train(self, compose: Callable[[], Loaded], *, dry_run: bool = False, stage: str | None = None) -> int:
        """One run; returns its exit code.

        Args:
            compose: gives the configuration; in processes of a launcher only rank 0 composes.
            dry_run: print the plan, touch nothing. One process does it, however many would train.
            stage: run this one alone.
        """
        if dry_run:
            return self._plan(compose, stage)
        return self._run(compose, Task(stage=stage), processes_of)

    def _plan(self, compose: Callable[[], Loaded], stage: str | None) -> int:
        if self.world is not None and self.world.rank > 0:
            return 0
        from stpipe.pipeline.dry_run import run_dry

        loaded = compose()
        processes = self.world.size if self.world is not None else processes_of(loaded)
        return run_dry(loaded, stage=stage, processes=processes)

    def evaluate(self, model: str, compose: Callable[[], Loaded]) -> int:
        """Evaluate a model; returns the exit code.

        Args:
            model: as the user gave it.
            compose: as for `train`.
        """
        return self._run(compose, Task(model=model), helpers_of)

    def _run(self, compose: Callable[[], Loaded], task: Task, count: Callable[[Loaded], int]) -> int:
        if self.world is not None and self.world.size > 1:
            from stpipe.core.peers import ConnectedPeers
            from stpipe.launch.together import run_together

            self._peers = self._peers or ConnectedPeers(self.world)
            return run_together(self._peers, compose, task)
        loaded = compose()
        processes = count(loaded)
        if processes > 1:
            from stpipe.launch.local import run_processes

            return run_processes(loaded, task, num_processes=processes)
        return task.run(loaded)


def helpers_of(loaded: Loaded) -> int:
    """Processes to evaluate with: as many as the backend asks for, but no more than there are GPUs, if any.

    The configuration may be that of a run on another machine, and results are the same for any number.
    """
    backend = loaded.values["backend"]
    if backend.get("num_processes") is None:
        return 1
    import torch

    devices = torch.cuda.device_count() if loaded.values["trainer"]["device"] in ("auto", "cuda") else 0
    count = int(backend["num_processes"])
    return min(count, devices) if devices else count


def processes_of(loaded: Loaded) -> int:
    """Processes to start on this machine: as many as the configuration says, else one for each GPU.

    Raises:
        ConfigError: neither says it.
    """
    from stpipe.config.schema import component

    backend = loaded.values["backend"]
    if not (component(loaded.schema, "backend", backend["name"]) or {}).get("x-distributed"):
        return 1
    if backend["num_processes"] is not None:
        return int(backend["num_processes"])
    import torch

    devices = torch.cuda.device_count() if loaded.values["trainer"]["device"] in ("auto", "cuda") else 0
    if not devices:
        raise ConfigError(
            Problem(
                "backend.num_processes",
                f"nothing says how many processes backend '{backend['name']}' has: there is no GPU to count, and no launcher started this process. "
                "Set it (backend.num_processes=2), or start with torchrun or srun; `accelerate launch --cpu` starts one process whatever it is told",
            )
        )
    return devices
