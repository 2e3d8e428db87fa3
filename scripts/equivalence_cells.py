"""One optimiser step of a small model under a loss, a strategy, a backend and a number of processes: what scripts/equivalence.py compares."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from stpipe import losses as L
from stpipe.core.batch import Batch, Targets, TextColumn
from stpipe.core.context import StepContext
from stpipe.core.peers import ConnectedPeers, Peers
from stpipe.core.tokens import Tokens
from stpipe.core.world import World
from stpipe.engine.accumulation import Accumulation
from stpipe.engine.backends import Runtime, Single
from stpipe.engine.backends.base import Backend
from stpipe.engine.strategies import Strategy
from stpipe.engine.train_module import TrainModule
from stpipe.engine.views import VIEWS
from stpipe.models.encoder import Encoder
from stpipe.models.modules import Dense, Normalize, Pooling, Transformer

WIDTH, VOCABULARY = 16, 60
#: Rows of the batches of all processes together: no number of processes divides them, and the second batch is smaller.
ROWS = (13, 9)
#: Micro-batches are small, so that every strategy has several.
BUDGET = 40
STEP = StepContext(step=3, num_steps=10, seed=5)


@dataclass(frozen=True)
class Objective:
    """A loss with its data. kind: of the model; roles: texts of a row; targets: member of Targets that is filled, with `grades` lists of
    documents."""

    loss: L.Loss
    kind: str = "dense"
    roles: tuple[str, ...] = ("anchor", "positive")
    targets: str | None = None


def _negatives(count: int) -> tuple[str, ...]:
    return ("anchor", "positive", *(f"negative_{i + 1}" for i in range(count)))


SPLADE = L.SpladeLoss(query_weight=0.5, document_weight=0.4)
OBJECTIVES: dict[str, Objective] = {
    "mnrl, 0 negatives": Objective(L.MultipleNegativesRankingLoss()),
    "mnrl, 1 negative": Objective(L.MultipleNegativesRankingLoss(), roles=_negatives(1)),
    "mnrl, 3 negatives": Objective(L.MultipleNegativesRankingLoss(), roles=_negatives(3)),
    "matryoshka of mnrl, 1 negative": Objective(L.MatryoshkaLoss(loss=L.MultipleNegativesRankingLoss(), dims=(16, 8)), roles=_negatives(1)),
    "triplet": Objective(L.TripletLoss(triplet_margin=1.0), roles=_negatives(1)),
    "cosine_similarity": Objective(L.CosineSimilarityLoss(), targets="score"),
    "cosent": Objective(L.CoSENTLoss(), targets="score"),
    "angle": Objective(L.AnglELoss(), targets="score"),
    "online_contrastive": Objective(L.OnlineContrastiveLoss(margin=0.9), targets="binary"),
    "batch_hard_triplet": Objective(L.BatchHardTripletLoss(), roles=("anchor",), targets="class"),
    "margin_mse, 3 negatives": Objective(L.MarginMSELoss(), roles=_negatives(3), targets="scores"),
    "sum of mnrl and cosent": Objective(
        L.SumLoss(terms={"a": L.Term(L.MultipleNegativesRankingLoss()), "b": L.Term(L.CoSENTLoss(), 0.5)}), targets="score"
    ),
    "splade of mnrl (FLOPS), 1 negative": Objective(SPLADE, "sparse", _negatives(1)),
    "splade of cosent (FLOPS)": Objective(replace(SPLADE, loss=L.CoSENTLoss(scale=1.0, similarity="dot")), "sparse", targets="score"),
    "lambda (reranker)": Objective(L.LambdaLoss(), "cross_encoder", ("documents",), "grades"),
    "sum of lambda and binary_cross_entropy (reranker)": Objective(
        L.SumLoss(terms={"a": L.Term(L.LambdaLoss()), "b": L.Term(L.BinaryCrossEntropyLoss(), 0.5)}),
        "cross_encoder",
        ("documents",),
        "grades",
    ),
    "binary_cross_entropy (reranker)": Objective(L.BinaryCrossEntropyLoss(), "cross_encoder", ("documents",), "grades"),
}


@dataclass(frozen=True)
class Cell:
    """What is computed: names of the objective, the strategy and the backend; batches of the step; trainer.max_grad_norm."""

    objective: str
    strategy: Strategy
    backend: Backend
    accumulation: int = 1
    max_grad_norm: float | None = None

    @property
    def reference(self) -> Cell:
        """The same on one process with one forward and one backward."""
        from stpipe.engine.strategies import Plain

        return replace(self, strategy=Plain(token_budget=BUDGET), backend=Single())


def make_encoder(kind: str, *, dropout: float = 0.0) -> Encoder:
    """Two small layers; their embeddings, values at least 0 of a vocabulary, or one score a text."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=40,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.2,
    )
    tails: dict[str, list[nn.Module]] = {
        "dense": [Normalize()],
        "sparse": [Dense(WIDTH, out_features=24, activation="torch.nn.modules.activation.ReLU")],
        "cross_encoder": [Dense(WIDTH, out_features=1, activation="torch.nn.modules.linear.Identity")],
    }
    encoder = Encoder([Transformer(BertModel(config, add_pooling_layer=False), tokenizer=None), Pooling(WIDTH), *tails[kind]])  # type: ignore[list-item]
    encoder.layout = "packed"
    return encoder.train()


def make_batch(objective: Objective, number: int) -> Batch:
    """The batch of all processes."""
    rows, start = ROWS[number], sum(ROWS[:number])
    g = torch.Generator().manual_seed(number)
    columns, documents = {}, torch.randint(1, 5, (rows,), generator=g)
    for i, role in enumerate(objective.roles):
        counts = documents if role == "documents" else None
        lengths = torch.randint(1, 20, (rows if counts is None else int(counts.sum()),), generator=g)
        ids = torch.randint(0, VOCABULARY, (int(lengths.sum()),), generator=g)
        columns[role] = TextColumn(Tokens(ids, lengths), torch.arange(lengths.numel()) + 10_000 * (i + 1) + 1000 * number, counts)
    numbers = {
        None: Targets(),
        "score": Targets(score=torch.randint(0, 4, (rows,), generator=g) / 3),
        "binary": Targets(label=torch.arange(rows) % 2),
        "class": Targets(label=torch.arange(rows) % 3),
        "scores": Targets(scores=torch.randn(rows, max(len(objective.roles) - 2, 0), generator=g)),
    }
    if objective.targets == "grades":
        grades = torch.randint(0, 2, (rows, int(documents.max())), generator=g).float()
        beyond = torch.arange(int(documents.max())) >= documents[:, None]
        targets = Targets(scores=grades.masked_fill(beyond, float("nan")))
    else:
        targets = numbers[objective.targets]
    return Batch(columns, targets, torch.arange(start, start + rows))


def share(batch: Batch, rank: int, size: int) -> Batch:
    """A process's rows, as data/stream.py deals them out."""
    return batch.rows(torch.arange(rank * len(batch) // size, (rank + 1) * len(batch) // size))


@dataclass(frozen=True)
class Outcome:
    """After one step of SGD with rate 1: parameters by name, their change (the gradient, negated), the norm before clipping."""

    parameters: dict[str, Tensor]
    change: dict[str, Tensor]
    norm: float


def start(cell: Cell, peers: Peers) -> Runtime:
    """The started backend of a cell with its module."""
    objective = OBJECTIVES[cell.objective]
    module = TrainModule(make_encoder(objective.kind), {"default": objective.loss}, cell.strategy, view=VIEWS[objective.kind])
    runtime = cell.backend.build(device="cpu", precision="fp32", max_grad_norm=cell.max_grad_norm, peers=peers)
    runtime.prepare(module, torch.optim.SGD(module.parameters(), lr=1.0))
    return runtime


def run_cell(cell: Cell, peers: Peers) -> Outcome:
    """One optimiser step on this process's part of the rows; rank 0 has the outcome."""
    runtime = start(cell, peers)
    before = clone(runtime.state_dict()["module"])
    step = Accumulation(runtime)
    for i in range(cell.accumulation):
        batch = share(make_batch(OBJECTIVES[cell.objective], i), runtime.rank, runtime.world_size)
        ctx = replace(STEP, micro=i, rank=runtime.rank)
        cell.strategy.run(step, batch, ctx, last=i == cell.accumulation - 1)
    norm = runtime.clip_and_step(cell.max_grad_norm, step.rescale)
    after = clone(runtime.state_dict()["module"])
    is_main = runtime.is_main  # which alone has the weights whole
    runtime.close()
    if not is_main:
        return Outcome({}, {}, float(norm))
    return Outcome(after, {k: after[k] - before[k] for k in before if before[k].is_floating_point()}, float(norm))


def clone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in state.items() if isinstance(v, Tensor)}


def difference(found: Outcome, expected: Outcome) -> float:
    """Largest difference of a change, over the largest change of any parameter: 1e-5 of it is agreement in fp32."""
    largest = max(float(c.abs().max()) for c in expected.change.values())
    if not largest > 1e-4 or found.change.keys() != expected.change.keys():
        raise AssertionError(
            f"nothing to compare: the largest change is {largest}, {len(found.change)} and {len(expected.change)} parameters"
        )
    return max(float((found.change[k] - c).abs().max()) for k, c in expected.change.items()) / largest


def run_all(cells: Sequence[Cell], processes: int) -> list[Outcome | str]:
    """Outcome of each cell on rank 0, or its error, from one launch of so many processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_process, args=(processes, port, tuple(cells), results), nprocs=processes, join=True)
        return [results[i] for i in range(len(cells))]


def _process(rank: int, size: int, port: int, cells: Sequence[Cell], results: dict[int, Outcome | str]) -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    peers = ConnectedPeers(World(rank, size, rank, "127.0.0.1", port))
    for i, cell in enumerate(cells):
        peers.begin()
        try:
            outcome: Outcome | str = run_cell(cell, peers)
        except Exception as error:
            if size > 1 and not isinstance(error, (ValueError, NotImplementedError)):
                raise  # the processes would no longer be at the same cell
            outcome = f"{type(error).__name__}: {error}"
        if rank == 0:
            results[i] = outcome
    peers.close()
