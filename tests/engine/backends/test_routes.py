"""Batches that use part of the parameters: one route of a Router."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from stpipe.core.batch import Batch, Targets, TextColumn
from stpipe.core.context import StepContext
from stpipe.core.peers import ConnectedPeers, Peers
from stpipe.core.world import World
from stpipe.engine.accumulation import Accumulation
from stpipe.engine.backends import DDP, FSDP2, Backend, Single
from stpipe.engine.strategies import Plain
from stpipe.engine.train_module import TrainModule
from stpipe.losses import TripletLoss
from stpipe.models.encoder import Encoder
from stpipe.models.modules import Router
from tests.engine.tiny import random_batch, tiny_encoder

BACKENDS: dict[str, Backend] = {"ddp": DDP(), "fsdp2": FSDP2()}


def module() -> TrainModule:
    """Two towers, and a data set whose texts all take one of them."""
    towers = [list(tiny_encoder(dropout=0.0, seed=seed).stack) for seed in (1, 2)]
    encoder = Encoder([Router.for_query_document(*towers)]).train()  # type: ignore[arg-type]
    encoder.layout = "packed"
    return TrainModule(
        encoder,
        {"both": TripletLoss(triplet_margin=1.0), "one": TripletLoss(triplet_margin=1.0)},
        Plain(64),
        routes={"one": dict.fromkeys(("anchor", "positive", "negative_1"), "document")},
    )


def steps(backend: Backend, peers: Peers) -> dict[str, Tensor]:
    """Weights after a step on all texts through one tower, and one through both."""
    runtime = backend.build(device="cpu", precision="fp32", peers=peers)
    trained = module()
    runtime.prepare(trained, torch.optim.SGD(trained.parameters(), lr=0.1))
    for number, source in enumerate(("one", "both", "one")):
        whole = random_batch(6, roles=("anchor", "positive", "negative_1"), seed=number)
        rows = torch.arange(runtime.rank * 6 // runtime.world_size, (runtime.rank + 1) * 6 // runtime.world_size)
        part = whole.rows(rows)
        columns = {r: TextColumn(c.tokens, c.text_id) for r, c in part.columns.items()}
        batch = Batch(columns, Targets(), part.row, source)
        accumulation = Accumulation(runtime)
        Plain(64).run(accumulation, batch, StepContext(step=number, seed=1, rank=runtime.rank), last=True)
        runtime.clip_and_step(None, accumulation.rescale)
    found = {k: v.detach().clone() for k, v in runtime.state_dict()["module"].items()}
    runtime.close()
    return found


def _process(rank: int, port: int, results: Any) -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    peers = ConnectedPeers(World(rank, 2, rank, "127.0.0.1", port))
    for name, backend in BACKENDS.items():
        peers.begin()
        found = steps(backend, peers)
        if rank == 0:
            results[name] = found
    peers.close()


@pytest.mark.slow
def test_a_route_that_no_text_takes_keeps_its_weights() -> None:
    expected = steps(Single(), Peers())
    start = module().state_dict()
    assert max(float((expected[k] - start[k]).abs().max()) for k in expected if expected[k].is_floating_point()) > 1e-3
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_process, args=(port, results), nprocs=2, join=True)
        for name in BACKENDS:
            for key, value in expected.items():
                torch.testing.assert_close(results[name][key], value, rtol=1e-5, atol=1e-6, msg=lambda m, k=key, n=name: f"{n} {k}: {m}")
