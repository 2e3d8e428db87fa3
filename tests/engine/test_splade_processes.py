"""The regularisers of SpladeLoss over several processes: the same value and gradient as in one, whatever rows each has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stpipe.core.batch import Targets
from stpipe.core.context import StepContext
from stpipe.core.reps import Rep, RepBatch
from stpipe.core.result import LossOutput
from stpipe.engine.gather import gather_column, gather_rows, row_counts
from stpipe.losses import SpladeLoss, TripletLoss
from stpipe.losses.base import Loss
from tests.engine.gloo import run_distributed

ROWS = {2: (5, 2), 4: (3, 1, 2, 1)}
TOTAL, WIDTH, VOCABULARY = 7, 5, 11
ROLES = ("anchor", "positive", "negative_1")
WEIGHTS = {"query_weight": 0.4, "document_weight": 0.3}
LOSSES: dict[str, Loss] = {
    "flops": SpladeLoss(**WEIGHTS),
    "threshold": SpladeLoss(**WEIGHTS, query_threshold=4, document_threshold=5),
    "l1": SpladeLoss(loss=TripletLoss(triplet_margin=1.0), **WEIGHTS, document_regularizer="l1"),
    "documents_only": SpladeLoss(**WEIGHTS, documents_only=True),
}
CTX = StepContext(step=20, num_steps=30)


def inputs() -> tuple[dict[str, Tensor], Tensor]:
    """Rows by role, and the head that turns them into representations: the parameter that all processes share."""
    g = torch.Generator().manual_seed(0)
    return {r: torch.randn(TOTAL, WIDTH, generator=g) for r in ROLES}, torch.randn(WIDTH, VOCABULARY, generator=g)


def rep_batch(rows: slice, counts: tuple[int, ...], head: Tensor) -> RepBatch:
    """What TrainModule makes of a process's rows."""
    texts, _ = inputs()
    number = torch.arange(TOTAL)[rows]
    columns = {role: gather_column(Rep((texts[role][rows] @ head).relu()), number + 100 * (k + 1), counts) for k, role in enumerate(ROLES)}
    return RepBatch(columns, number, gather_rows(number, counts), Targets(score=number / TOTAL))


def backward(out: LossOutput, head: Tensor, *, world: int, total: Tensor) -> Tensor:
    """The loop's convention: the sum times the number of processes over the count of all; gradients are averaged by the wrapper."""
    (out.sum * (world / total)).backward()
    assert head.grad is not None
    return head.grad


Result = tuple[float, list[list[float]], dict[str, float]]


def regularizers(out: LossOutput) -> dict[str, float]:
    return {k: float(v) for k, v in out.terms.items() if k.endswith("regularizer")}


def shard(world: int) -> dict[str, Result]:
    """Value, averaged gradient and regularisers of each loss as one process ends up with."""
    rank, found = torch.distributed.get_rank(), {}
    start = sum(ROWS[world][:rank])
    rows, counts = slice(start, start + ROWS[world][rank]), row_counts(ROWS[world][rank], torch.device("cpu"))
    for name, loss in LOSSES.items():
        head = inputs()[1].requires_grad_()
        out = loss(rep_batch(rows, counts, head), CTX)
        both = torch.stack([out.sum.detach(), out.count])
        torch.distributed.all_reduce(both)
        grad = backward(out, head, world=world, total=both[1])
        torch.distributed.all_reduce(grad)
        found[name] = float(both[0] / both[1]), (grad / world).tolist(), regularizers(out)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("world", ROWS)
def test_uneven_processes_have_the_loss_and_gradient_of_one(world: int) -> None:
    results = run_distributed(shard, world, world=world)
    assert len(results) == world
    for name, loss in LOSSES.items():
        head = inputs()[1].requires_grad_()
        out = loss(rep_batch(slice(0, TOTAL), (TOTAL,), head), CTX)
        expected = backward(out, head, world=1, total=out.count)
        assert expected.abs().max() > 0.01
        assert min(regularizers(out).values()) > 0.05
        for value, grad, terms in (r[name] for r in results):
            assert value == pytest.approx(float(out.mean.detach()), rel=1e-5)
            assert terms == pytest.approx(regularizers(out), rel=1e-5), "every process takes the regulariser over all rows"
            assert float((torch.tensor(grad) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_the_mean_of_the_regularisers_of_processes_would_be_another() -> None:
    """What computing FLOPS per process gives: it grows as the rows of a process get fewer."""
    head = inputs()[1]
    whole = LOSSES["flops"](rep_batch(slice(0, TOTAL), (TOTAL,), head), CTX).terms["document_regularizer"]
    parts, start = [], 0
    for n in ROWS[4]:
        local = rep_batch(slice(start, start + n), (n,), head)
        parts.append(LOSSES["flops"](local, CTX).terms["document_regularizer"])
        start += n
    assert float(torch.stack(parts).mean() / whole) > 1.2
