from __future__ import annotations

import pytest
import torch

from stpipe.core.reps import Rep, RepBatch
from stpipe.engine.gather import gather_column, gather_rows, row_counts
from tests.engine.gloo import run_distributed

ROWS = (3, 2)


def whole() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 4, generator=generator), torch.randn(5, 4, generator=generator)


def nll(anchors: torch.Tensor, candidates: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(anchors @ candidates.T, target, reduction="sum")


def shard() -> tuple[list[list[float]], list[list[float]], int]:
    """One process's part of an in-batch loss: gradients of its own rows, averaged as a wrapper would."""
    rank = torch.distributed.get_rank()
    start = sum(ROWS[:rank])
    a, p = (t[start : start + ROWS[rank]].clone().requires_grad_() for t in whole())
    counts = row_counts(ROWS[rank], torch.device("cpu"))
    column = gather_column(Rep(p), torch.arange(start, start + ROWS[rank]), counts)
    loss = nll(a, column.all.values, torch.arange(start, start + ROWS[rank])) / sum(counts)
    loss.backward()
    assert column.text_id.tolist() == [0, 1, 2, 3, 4]
    return a.grad.tolist(), p.grad.tolist(), len(counts)


@pytest.mark.slow
def test_uneven_processes_have_the_gradient_of_one() -> None:
    a, p = (t.clone().requires_grad_() for t in whole())
    (nll(a, p, torch.arange(5)) / 5).backward()
    results = run_distributed(shard)
    assert [r[2] for r in results] == [2, 2]
    assert a.grad.abs().max() > 0.01
    torch.testing.assert_close(torch.tensor(results[0][0] + results[1][0]), a.grad)
    torch.testing.assert_close(torch.tensor(results[0][1] + results[1][1]), p.grad)


def test_one_process_gathers_nothing() -> None:
    rows = torch.randn(3, 2)
    assert row_counts(3, rows.device) == (3,)
    assert gather_rows(rows, (3,)) is rows
    column = gather_column(Rep(rows), torch.arange(3), (3,))
    assert column.all is column.local
    assert len(RepBatch.from_values({"anchor": rows})) == 3
