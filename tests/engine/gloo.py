"""Run a function in several gloo processes on this machine and return what each gives back."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _run(rank: int, world: int, port: int, function: Callable[..., Any], args: tuple[Any, ...], results: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        results[rank] = function(*args)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def run_distributed(function: Callable[..., Any], *args: Any, world: int = 2) -> list[Any]:
    """Results of `function(*args)` by rank; a failing process fails the call with its traceback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_run, args=(world, port, function, args, results), nprocs=world, join=True)
        return [results[rank] for rank in range(world)]
